"""Variables in a real run: precedence, HCL, several lines, and what the log and the page never show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from extensions import db
from models import Category, Environment, Variable
from policy.lifecycle import RunStatus
from services import states
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

LINES = 'first\nsecond ${not.a.template} %{ if }\n\ttabbed "quoted" \\ end'


def variable(name: str, value: str, *, of: Environment | None = None, owner: str | None = None, **more: Any) -> None:
    factories.variable(name, value, of=of, owner=owner, category=Category.TERRAFORM, **more)


def outputs(bench: Bench) -> dict[str, object]:
    """What the environment's state has as outputs."""
    version = states.latest(bench.environment.id)
    assert version is not None
    content = states.content(bench.environment, version.number)[1]
    return {name: output["value"] for name, output in json.loads(content)["outputs"].items()}


def declared(*names: str) -> str:
    return "".join(f'variable "{name}" {{}}\noutput "{name}" {{\n  value = var.{name}\n}}\n' for name in names)


def test_the_four_scopes_in_a_real_run(bench: Bench) -> None:
    of = bench.environment
    names = ("a", "b", "c", "d", "e", "lines", "list", "number", "with-hyphen", "list-with-hyphen")
    for name in names[:5]:
        variable(name, "organization")
    for name in names[1:4]:
        variable(name, "environment", of=of)
    variable("c", "alice", owner="alice")
    variable("d", "alice in network", of=of, owner="alice")
    variable("c", "bob", owner="bob")
    variable("lines", LINES)
    variable("list", '[\n  "x", # a comment\n  upper("y"),\n]'.replace('upper("y")', '"y"'), hcl=True)
    variable("number", "007")
    variable("with-hyphen", "10.0.0.0/16")
    variable("list-with-hyphen", '["10.0.0.0/16"]', hcl=True)
    factories.variable("TF_VAR_e", "of the environment variables, which count least")
    files = {
        "main.tf": declared(*names) + ONE,
        "terraform.tfvars": 'a = "file"\n',
        "zzzz.auto.tfvars": 'b = "file"\n',
    }
    bench.applied(files)
    assert outputs(bench) == {
        "a": "organization", "b": "environment", "c": "alice", "d": "alice in network", "e": "organization",
        "lines": LINES, "list": ["x", "y"], "number": "007",
        "with-hyphen": "10.0.0.0/16", "list-with-hyphen": ["10.0.0.0/16"],
    }  # fmt: skip


def test_the_apply_has_the_variables_of_the_plan(bench: Bench) -> None:
    """Bob confirms the plan of alice: what is applied is what was planned."""
    variable("c", "alice", owner="alice")
    variable("c", "bob", owner="bob")
    run = bench.planned(declared("c") + ONE)
    from services import runs

    runs.confirm(factories.member("bob"), run)
    variable("c", "changed meanwhile", of=bench.environment)
    assert bench.work(run.apply) is RunStatus.APPLIED
    assert outputs(bench) == {"c": "alice"}


def test_a_broken_hcl_value_is_named_and_nothing_runs(bench: Bench) -> None:
    variable("subnets", '["10.0.0.0/24"', hcl=True, sensitive=True)
    run = bench.run(declared("subnets") + ONE)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "workdir"
    assert run.error.startswith("The value of the Terraform variable subnets is not one HCL expression:")
    assert run.error.endswith("Nothing was run.")
    assert "10.0.0.0/24" not in run.error + lab.log_of(run.plan)
    assert "Initializing" not in lab.log_of(run.plan)


def test_an_hcl_value_that_only_terraform_can_judge(bench: Bench) -> None:
    variable("subnets", "[upper(1), nowhere.at.all]", hcl=True)
    run = bench.run(declared("subnets") + ONE)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "terraform_failed"
    assert "subnets.tfvars" in lab.log_of(run.plan)


def test_sensitive_values_are_in_no_log_and_no_summary(bench: Bench, tmp_path: Path) -> None:
    secret, lines, listed = "tr0ub4dor&3", "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----", "hunter2-in-a-list"
    variable("password", secret, sensitive=True)
    variable("key", lines, sensitive=True)
    variable("users", f'[{{ name = "somebody", token = "{listed}" }}]', hcl=True, sensitive=True)
    factories.variable("API_TOKEN", "env-s3cret-value", sensitive=True)
    factories.variable("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    shown = 'printf \'%s\\n\' "$API_TOKEN" "$AWS_SECRET_ACCESS_KEY" "$P" "$K" end-of-the-list'
    configuration = f"""
variable "password" {{}}
variable "key" {{}}
variable "users" {{}}
resource "terraform_data" "shown" {{
  input = [var.password, var.key, var.users[0].token]
  provisioner "local-exec" {{
    command = <<-EOT
      {shown}
    EOT
    environment = {{
      P = var.password
      K = var.key
    }}
  }}
}}
output "password" {{
  value = var.password
}}
"""
    run = bench.applied(configuration)
    logs = lab.log_of(run.plan) + lab.log_of(run.apply)
    assert "end-of-the-list" in logs
    assert logs.count("•••") >= 6
    for value in (secret, "MIIEvQIBADANBg", listed, "env-s3cret-value", "wJalrXUtnFEMI"):
        assert value not in logs
    db.session.rollback()


def test_without_the_key_of_the_vault_the_phase_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.storage.vault import Vault, generate_key

    variable("c", "kept with another key")
    run = bench.run(declared("c") + ONE)
    with pytest.MonkeyPatch.context() as patch:
        bench.settings(patch, vault=Vault.from_text(generate_key()))
        assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "variables_unreadable"
    assert "ENCRYPTION_KEYS does not hold" in run.error


def test_a_configuration_without_the_terraform_directory(bench: Bench) -> None:
    bench.environment.terraform_directory = "live/network"
    db.session.commit()
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "no_directory"
    assert "Correct the Terraform directory in Settings" in run.error
    good = bench.applied({"live/network/main.tf": ONE, "modules/x/main.tf": ""})
    assert "Terraform 1." in lab.log_of(good.plan)
    assert "in live/network" in lab.log_of(good.plan)


def test_a_sensitive_value_that_is_too_short_to_hide_is_told(bench: Bench) -> None:
    """The form refuses one now; one that was stored before is not pretended to be hidden."""
    for name, owner in (("pin", None), ("own", "alice")):
        factories.variable(name, "123", owner=owner)
    variable("conf", '{ pin = "123", pw = "longpassword" }', hcl=True)
    db.session.execute(update(Variable).values(sensitive=True))
    db.session.commit()
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION
    log = lab.log_of(run.plan)
    assert "Sensitive, but too short to be hidden in this log: " in log
    assert "conf" in log and "pin" in log and "a personal variable" in log and "own," not in log
