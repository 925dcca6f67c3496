"""What must be hidden is known where the variables are not: in an apply of somebody else's plan, after a takeover."""

from __future__ import annotations

import json

import pytest

from extensions import db
from models import Category, Run, Variable
from policy.lifecycle import RunStatus
from services import archive_child, run_secrets, runs, state_writes, states
from services.execution import beginning, hidden, steps
from services.execution.redact import HideAll
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE, hcl
from tests.worker.conftest import Bench
from tests.worker.test_state import http_backend

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


SHOWS = """variable "mine" {}
resource "terraform_data" "it" {
  input = var.mine
}
output "shown" {
  value = var.mine
}
"""


def mine(value: str, owner: str | None = None, *, sensitive: bool = True) -> None:
    """The variable that a configuration does not call sensitive, of a person or shared."""
    factories.variable("mine", value, category=Category.TERRAFORM, owner=owner, sensitive=sensitive)


def changed(value: str, *, sensitive: bool = True) -> None:
    """The shared one is replaced."""
    db.session.query(Variable).filter_by(owner_id=None, name="mine").delete()
    db.session.commit()
    mine(value, sensitive=sensitive)


def shown(run: Run) -> str:
    """All that a reader sees of a run."""
    db.session.refresh(run)
    return lab.log_of(run.plan) + lab.log_of(run.apply) + json.dumps(run.summary, ensure_ascii=False)


def test_a_plan_hides_what_somebody_elses_run_left_in_the_state(bench: Bench) -> None:
    mine("secret-of-alice", "alice")
    mine("secret-of-bob", "bob")
    bench.applied(SHOWS)
    run = bench.applied(SHOWS, "bob")
    assert '~ input  = "•••" -> "•••"' in shown(run) and '~ shown = "•••" -> "•••"' in shown(run)
    assert "secret-of" not in shown(run)
    assert {"secret-of-alice", "secret-of-bob"} <= run_secrets.of(run.id)
    after = bench.run(SHOWS, "bob")
    assert bench.work(after.plan) is RunStatus.PLANNED_AND_FINISHED, after.error
    assert run_secrets.of(after.id) == {"secret-of-bob"}, "the state holds hers no more"
    db.session.rollback()


def test_a_plan_hides_what_a_variable_was_until_the_state_holds_it_no_more(bench: Bench) -> None:
    """One resource keeps the value that it was made with through several changes of the variable."""
    kept = """resource "terraform_data" "kept" {
  input = var.mine
  lifecycle {
    ignore_changes = [input]
  }
}
"""
    changed("the-first-secret")
    bench.applied(SHOWS + kept)
    for value in ("the-second-secret", "the-third-secret"):
        changed(value)
        assert "-secret" not in shown(bench.applied(SHOWS + kept))
    run = bench.planned(SHOWS)
    assert '- input  = "•••" -> null' in shown(run) and "-secret" not in shown(run)
    assert run_secrets.of(run.id) == {"the-first-secret", "the-third-secret"}, "the second is nowhere any more"
    runs.confirm(factories.member("alice"), run)
    assert bench.work(run.apply) is RunStatus.APPLIED
    assert "-secret" not in shown(run)
    changed("the-fourth-secret")
    last = bench.planned(SHOWS)
    assert run_secrets.of(last.id) == {"the-third-secret", "the-fourth-secret"}
    db.session.rollback()


def test_a_plan_hides_what_a_state_holds_that_somebody_brought_back(bench: Bench) -> None:
    changed("the-first-secret")
    bench.applied(SHOWS)
    changed("the-second-secret")
    bench.applied(SHOWS)
    changed("the-third-secret")
    bench.applied(SHOWS)
    current = states.latest(bench.environment.id)
    assert current is not None
    first = states.version(bench.environment, 1)
    typed, seen = str(first.serial), current.number
    state_writes.roll_back(factories.member(), bench.environment, 1, typed_serial=typed, seen=seen)
    run = bench.planned(SHOWS)
    assert '~ input  = "•••" -> "•••"' in shown(run) and "-secret" not in shown(run)


def test_a_plan_hides_what_an_apply_left_that_did_not_end_well(bench: Bench) -> None:
    """What it did, no state need tell: all that was secret in it is hidden, and in what comes after it."""
    fails = 'resource "terraform_data" "it" {\n  provisioner "local-exec" {\n    command = "exit 1"\n  }\n}\n'
    changed("secret-of-the-failure")
    run = bench.planned('variable "mine" {}\n' + fails)
    runs.confirm(factories.member("alice"), run)
    assert bench.work(run.apply) is RunStatus.ERRORED
    changed("another-secret")
    known = "variable mine {}\n" + ONE + 'output "o" {\n  value = "secret-of-the-failure"\n}\n'
    run = bench.planned(known)
    assert "•••" in shown(run) and "secret-of" not in shown(run)


def test_a_plan_hides_what_was_secret_where_the_state_is_elsewhere(bench: Bench) -> None:
    with http_backend() as (address, _):
        elsewhere = f'terraform {{\n  backend "http" {{\n    address = "{address}"\n  }}\n}}\n' + SHOWS
        for value in ("the-first-secret", "the-second-secret", "the-third-secret"):
            changed(value)
            run = bench.applied(elsewhere)
            assert "-secret" not in shown(run)
    assert '~ input  = "•••" -> "•••"' in shown(run)


def test_a_plan_shows_what_is_no_secret_any_more(bench: Bench) -> None:
    """A value that the run's own variables hold in clear; and words of the language, which say nothing of a value."""
    on, also = (f'output "{name}" {{\n  value = true\n}}\n' for name in ("on", "also"))
    changed("production")
    factories.variable("flag", "true", category=Category.TERRAFORM, sensitive=True, owner="bob")
    bench.applied(SHOWS + on)
    changed("production", sensitive=False)
    run = bench.applied(SHOWS.replace("var.mine", '"${var.mine} and more"') + on + also)
    assert '~ input  = "production" -> "production and more"' in shown(run)
    assert "+ also  = true" in shown(run)


def test_whoever_takes_a_phase_over_knows_what_the_child_was_given(bench: Bench) -> None:
    factories.variable("mine", "secret-of-the-start", category=Category.TERRAFORM, sensitive=True)
    run = bench.run(PRINTS + ONE)
    phase_id = run.plan.id
    db.session.commit()
    with archive_child.Reader() as reader:
        work = beginning.prepare(phase_id, None, reader)
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
