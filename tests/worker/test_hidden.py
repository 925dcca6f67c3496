"""What must be hidden is known where the variables are not: in an apply of somebody else's plan, after a takeover."""

from __future__ import annotations

import pytest

from extensions import db
from models import Category, Variable
from policy.lifecycle import RunStatus
from services import archive_child, run_secrets, runs
from services.execution import hidden, steps
from services.execution.redact import HideAll
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE, hcl
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

PRINTS = f"""variable "mine" {{}}
resource "terraform_data" "it" {{
  input = var.mine
  provisioner "local-exec" {{
    command = {hcl('echo "it is $V"; echo printed')}
    environment = {{
      V = var.mine
    }}
  }}
}}
"""


def test_an_apply_hides_what_its_plan_was_made_with(bench: Bench) -> None:
    """Alice planned, her variable has changed since, and bob, who has another one, confirms."""
    factories.variable("mine", "secret-of-the-plan", category=Category.TERRAFORM, owner="alice", sensitive=True)
    run = bench.planned(PRINTS)
    factories.variable("mine", "secret-of-bob", category=Category.TERRAFORM, owner="bob", sensitive=True)
    row = db.session.query(Variable).filter_by(owner_id=factories.person("alice").id).one()
    db.session.delete(row)
    db.session.commit()
    runs.confirm(factories.member("bob"), run)
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error
    log = lab.log_of(run.apply)
    assert "it is •••" in log and "printed" in log
    assert "secret-of" not in log
    assert {"secret-of-the-plan", "secret-of-bob"} <= run_secrets.of(run.id)
    db.session.rollback()


def test_whoever_takes_a_phase_over_knows_what_the_child_was_given(bench: Bench) -> None:
    factories.variable("mine", "secret-of-the-start", category=Category.TERRAFORM, sensitive=True)
    run = bench.run(PRINTS + ONE)
    phase_id = run.plan.id
    db.session.commit()
    with archive_child.Reader() as reader:
        work = steps.prepare(phase_id, None, reader)
    try:
        db.session.query(Variable).delete()
        db.session.commit()
        vault = bench.app.config["LOCKSTEP"].vault
        assert "secret-of-the-start" in (hidden.found(vault, work.workdir, phase_id) or ())
        assert b"secret" not in (work.workdir.control / "hidden").read_bytes()
        work.workdir.control.joinpath("init.pid").touch()
        taken = steps.resume(work.run, work.phase)
        assert taken is not None
        assert taken.redactor.text("it is secret-of-the-start") == "it is •••"
        (work.workdir.control / "hidden").unlink()
        taken = steps.resume(work.run, work.phase)
        assert taken is not None and isinstance(taken.redactor, HideAll), "not known, so nothing is shown"
        db.session.rollback()
    finally:
        work.dismiss()
        work.workdir.remove()
