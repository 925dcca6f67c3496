"""Temporary credentials that terraform prints are hidden by a worker that took over and never had them, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from extensions import db
from models import Phase
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services.execution import job
from tests.support import lab
from tests.worker.configurations import hcl
from tests.worker.conftest import Bench
from tests.worker.lost import adopt, horse, kill, lapse

__all__ = ["horse"]


@pytest.fixture(autouse=True)
def without_a_sandbox(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provisioner tells the test what it knows by a file outside of its folders."""
    bench.settings(monkeypatch, terraform_sandbox="none")


pytestmark = pytest.mark.terraform


def telling(gate: Path, told: Path) -> str:
    """A resource that prints its credentials once the file ``gate`` is there."""
    command = (
        f"echo waiting; for _ in $(seq 600); do test -e {gate} && break; sleep 0.1; done;"
        f' echo "$AWS_SECRET_ACCESS_KEY $AWS_SESSION_TOKEN" | tee {told}; echo terraform_data/and/so/on/is/no/secret'
    )
    return (
        f'resource "terraform_data" "one" {{\n  provisioner "local-exec" {{\n    command = {hcl(command)}\n  }}\n}}\n'
    )


def lost(bench: Bench, horse: Callable[[Phase], int], configuration: str) -> Phase:
    """An apply behind a gate whose worker is killed while terraform waits."""
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(configuration)
    lab.authenticate(run, bench.aws.code())
    pid = horse(run.apply)
    lab.until(lambda: "(local-exec): waiting" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    return run.apply


def assert_hidden(phase: Phase, told: Path) -> None:
    log = lab.log_of(phase)
    for secret in told.read_text().split():
        assert len(secret) >= 40 and secret not in log
    assert "••• •••" in log and "terraform_data/and/so/on/is/no/secret" in log


def test_by_one_that_finds_terraform_running(bench: Bench, horse: Callable[[Phase], int], tmp_path: Path) -> None:
    gate, told = tmp_path / "gate", tmp_path / "told"
    phase = lost(bench, horse, telling(gate, told))
    lapse(phase)
    beside = lab.Beside(bench.app, lambda id_=phase.id: job.adopt_phase(id_))  # type: ignore[misc]
    lab.until(lambda: "The worker was lost" in lab.log_of(phase), "the phase is taken over")
    gate.touch()
    beside.result()
    assert lab.status(phase.run) is RunStatus.APPLIED
    assert_hidden(phase, told)


def test_by_one_that_finds_what_terraform_left(bench: Bench, horse: Callable[[Phase], int], tmp_path: Path) -> None:
    gate, told = tmp_path / "gate", tmp_path / "told"
    phase = lost(bench, horse, telling(gate, told))
    (workdir,) = bench.workdirs()
    gate.touch()
    lab.until((bench.home / "work" / workdir / "control" / "apply.exit").exists, "terraform ends by itself")
    assert adopt(bench, phase) is RunStatus.APPLIED
    assert_hidden(phase, told)
