"""The sandbox of the next command is made while the present one runs, and goes where that one does not come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from policy.lifecycle import RunStatus
from services import runs
from services.execution import steps, terraform
from tests import factories
from tests.support import lab
from tests.support.processes import running
from tests.worker.configurations import ONE
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def test_every_command_of_a_run_has_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = terraform.stand_by

    def stand_by(found: terraform.Terraform, step: str, **options: Any) -> terraform.Standing:
        made.append(step)
        return real(found, step, **options)

    def start(found: terraform.Terraform, args: Sequence[str], **options: Any) -> terraform.Child:
        raise AssertionError(f"{args[0]} was not ready")

    monkeypatch.setattr(terraform, "stand_by", stand_by)
    monkeypatch.setattr(terraform, "start", start)
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
    assert made == ["init", "plan"]
    runs.confirm(factories.member(), run)
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error
    assert made == ["init", "plan", "apply"]


@pytest.mark.parametrize("configuration", ["resource nonsense", 'terraform { required_version = "< 0.1" }'])
def test_a_command_that_does_not_come_leaves_nothing(bench: Bench, configuration: str) -> None:
    run = bench.run(configuration)
    control = steps.workdir_of(run, run.plan).control
    assert bench.work(run.plan) is RunStatus.ERRORED
    lab.until(lambda: not running(str(control)), "its end", seconds=20)
