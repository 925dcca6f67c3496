"""A worker that is asked to end by SIGTERM leaves terraform alone, and the next one takes it over."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from extensions import db
from models import AuditEvent, Phase, StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services.execution import terraform
from tests.support import lab
from tests.support.silent import reads, slow_remote_state
from tests.worker.configurations import ONE, held
from tests.worker.conftest import Bench
from tests.worker.lost import adopt, horse, kill
from tests.worker.test_process import ended, worker

__all__ = ["horse"]

pytestmark = pytest.mark.terraform


def test_the_next_worker_goes_on_with_an_apply(bench: Bench, tmp_path: Path) -> None:
    output, gate = tmp_path / "worker.log", tmp_path / "gate"
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(held(gate))
    lab.authenticate(run, bench.aws.code())
    with worker(bench, output) as first:
        lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
        (workdir,) = bench.workdirs()
        child = terraform.attach(bench.home / "work" / workdir / "control", "apply")
        first.send_signal(signal.SIGTERM)
        ended(first, output)
    assert child.running() and lab.status(run) is RunStatus.APPLYING
    assert run.apply.heartbeat_at is None, "nobody has to wait for the lease to lapse"
    assert run.apply.caller_arn == bench.aws.user().arn, "the credentials went with the worker, AWS's word on them not"
    with worker(bench, output) as second:
        lab.until(lambda: "another one goes on" in lab.log_of(run.apply), "it is taken over", seconds=25)
        gate.touch()
        lab.until(lambda: lab.status(run).final, "the run ends")
        lab.until(lambda: not bench.workdirs(), "the working directory is removed")
        second.send_signal(signal.SIGTERM)
        ended(second, output)
    assert lab.status(run) is RunStatus.APPLIED, run.error
    log = lab.log_of(run.apply)
    assert log.count("Apply complete!") == 1 and "The worker was stopped; another one goes on from here." in log
    assert [version.resources for version in db.session.query(StateVersion)] == [2]


def test_whose_credentials_an_apply_has_is_known_although_its_worker_is_killed(
    bench: Bench, horse: Callable[[Phase], int], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(held(gate))
    lab.authenticate(run, bench.aws.code())
    pid = horse(run.apply)
    lab.until(lambda: run.apply.caller_arn, "AWS's answer is kept while terraform works", seconds=30)
    assert lab.status(run) is RunStatus.APPLYING
    kill(pid)
    gate.touch()
    assert adopt(bench, run.apply) is RunStatus.APPLIED, run.error
    assert run.apply.caller_arn == bench.aws.user().arn
    assert db.session.query(AuditEvent).filter_by(action="run.identity").count() == 1


def test_two_signals_and_a_plan(bench: Bench, tmp_path: Path) -> None:
    """RQ would kill the job at the second signal."""
    output = tmp_path / "worker.log"
    with slow_remote_state() as (address, asked, answer):
        run = bench.run(reads(address) + ONE)
        with worker(bench, output) as first:
            lab.until(asked.is_set, "terraform plans")
            first.send_signal(signal.SIGINT)
            lab.until(lambda: "warm shut down requested" in output.read_text(), "the worker waits")
            assert first.poll() is None
            first.send_signal(signal.SIGTERM)
            ended(first, output)
        assert lab.status(run) is RunStatus.PLANNING
        answer.set()
        with worker(bench, output) as second:
            lab.until(lambda: lab.status(run) not in (RunStatus.PLANNING, RunStatus.PLAN_QUEUED), "the plan ends")
            lab.until(lambda: not bench.workdirs(), "the working directory is removed")
            second.send_signal(signal.SIGTERM)
            ended(second, output)
    # The answer was that there is no such state: terraform's own end, told by the second worker.
    assert lab.status(run) is RunStatus.ERRORED and "Unable to find remote state" in run.error
