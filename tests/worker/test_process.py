"""worker.py as the process that it is: it takes phases from Redis, forks, survives a lost queue and ends in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extensions import db
from models import StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import queue
from tests.support import lab
from tests.worker.configurations import ONE, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def worker(bench: Bench, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker on the bench's data folder and Redis."""
    settings = bench.app.config["LOCKSTEP"]
    environment = {
        "PATH": os.environ["PATH"],
        "LOCKSTEP_HOME": str(bench.home),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "AWS_ENDPOINT_URL": bench.aws.endpoint,
        "TERRAFORM_SANDBOX_PATHS": os.environ["TERRAFORM_SANDBOX_PATHS"],
        "LOG_LEVEL": "DEBUG",
    }
    db.session.commit()
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "worker.py"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def ended(process: subprocess.Popen[bytes], output: Path) -> None:
    """It ends by itself, with a good exit code."""
    db.session.rollback()  # a transaction that stays open here would keep the worker from writing
    try:
        assert process.wait(120) == 0
    finally:
        print(output.read_text()[-4000:])  # noqa: T201 (shown when the test fails)


def test_a_gated_run_through_a_real_worker(bench: Bench, tmp_path: Path) -> None:
    output = tmp_path / "worker.log"
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()
    run = bench.run(ONE)
    codes = []
    with worker(bench, output) as process:
        for end in (RunStatus.AWAITING_APPLY_AUTHENTICATION, RunStatus.APPLIED):
            codes.append(bench.aws.code())
            lab.authenticate(run, codes[-1])
            lab.until(lambda end=end: lab.status(run) is end, f"{end}: {output.read_text()[-2000:]}")  # type: ignore[misc]
        lab.until(lambda: not bench.workdirs(), "the working directory is removed")
        process.send_signal(signal.SIGTERM)
        ended(process, output)
    for phase in run.phases:
        assert phase.worker is not None and not phase.worker.endswith(f":{process.pid}"), "a forked child runs it"
        assert phase.caller_arn == bench.aws.user().arn
    said = output.read_bytes()
    for secret in (bench.aws.user().secret_access_key, bench.aws.user().access_key_id, *codes):
        assert not lab.holds_code(said, secret)
    assert b"ASIA" not in said
    assert queue.connection().keys("lockstep:handoff:*") == []
    assert bench.aws.outcomes() == ["ok", "ok"]


def test_a_lost_queue_is_made_again_and_a_stop_waits_for_the_apply(bench: Bench, tmp_path: Path) -> None:
    output, gate = tmp_path / "worker.log", tmp_path / "gate"
    run = bench.confirmed(held(gate))
    queue.connection().flushall()
    with worker(bench, output) as process:
        lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the phase is picked up and runs")
        process.send_signal(signal.SIGINT)
        lab.until(lambda: "shut" in output.read_text().lower(), "the worker notices the stop")
        assert process.poll() is None
        assert lab.status(run) is RunStatus.APPLYING
        gate.touch()
        ended(process, output)
    assert lab.status(run) is RunStatus.APPLIED, run.error
    assert [version.resources for version in db.session.query(StateVersion)] == [2]
