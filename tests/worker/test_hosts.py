"""Several hosts: workers with data folders of their own on one PostgreSQL and one Redis, and nothing shared on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import config
from extensions import db
from models import Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import states
from services.storage.vault import generate_key
from tests.support import lab, postgres
from tests.support.aws import Aws
from tests.worker.configurations import ONE, TWO
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

ROOT = Path(__file__).resolve().parents[2]


class Hosts:
    """What every host of one installation is given, and where each has its folder."""

    def __init__(self, folder: Path, shared: dict[str, str]) -> None:
        self._folder = folder
        self.shared = shared

    def home(self, name: str) -> Path:
        return self._folder / name

    @contextmanager
    def worker(self, name: str, **other: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker on the host ``name``, ended as systemd ends it."""
        environment = {**self.shared, **other, "PATH": os.environ["PATH"], "LOCKSTEP_HOME": str(self.home(name))}
        environment["TERRAFORM_SANDBOX_PATHS"] = str(self._folder)  # where the gates are
        output = self._folder / f"{name}.log"
        with output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "worker.py"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, output.read_text()[-3000:]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(30)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()


@pytest.fixture
def hosts(tmp_path: Path, redis_url: str, postgres_server: postgres.Server, one_aws: Aws) -> Hosts:
    tmp_path.chmod(0o755)  # for a sandbox with another user id
    return Hosts(
        tmp_path,
        {
            "DATABASE_URL": postgres_server.database(),
            "REDIS_URL": redis_url,
            "SECRET_KEY": "the same on every host, and long enough",
            "ENCRYPTION_KEYS": generate_key(),
            "AWS_ENDPOINT_URL": one_aws.endpoint,
        },
    )


@pytest.fixture
def settings(hosts: Hosts) -> config.Config:
    """Those of the host that the web server runs on."""
    return config.load({**hosts.shared, "LOCKSTEP_HOME": str(hosts.home("web"))})


def until(run: Run, status: RunStatus, hosts: Hosts, *names: str) -> None:
    logs = "".join(hosts.log(name)[-1500:] for name in names)
    lab.until(lambda: lab.status(run).final or lab.status(run) is status, f"{status}: {logs}")
    assert lab.status(run) is status, (run.error, logs)


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_the_plan_on_one_host_and_the_apply_on_another(bench: Bench, hosts: Hosts) -> None:
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    first = bench.run(ONE)
    with hosts.worker("one"):
        until(first, RunStatus.AWAITING_APPLY_AUTHENTICATION, hosts, "one")
    with hosts.worker("two"):
        lab.authenticate(first, bench.aws.code())
        until(first, RunStatus.APPLIED, hosts, "two")
        second = bench.run(TWO)
        until(second, RunStatus.AWAITING_APPLY_AUTHENTICATION, hosts, "two")
    with hosts.worker("one"):
        lab.authenticate(second, bench.aws.code())
        until(second, RunStatus.APPLIED, hosts, "one")
    assert [version.resources for version in states.versions(bench.environment)] == [2, 1]
    assert "Apply complete! Resources: 1 added" in lab.log_of(second.apply)
    ran = [(phase.worker or "").rpartition(":")[0] for run in (first, second) for phase in run.phases]
    assert ran[0] == ran[3] != ran[1] == ran[2]
    kept = hosts.home("two") / "work" / f"kept-{second.id}"
    assert kept.exists()
    with hosts.worker("two"):
        ready = "Listening on"
        lab.until(lambda: not kept.exists() and hosts.log("two").count(ready) == 2, "what init made is removed")
    for name in ("one", "two"):
        left = [path for path in files(hosts.home(name)) if path != "worker_host"]
        assert left == [], "no secret, no database and no working directory stays on a host"


def test_a_host_with_other_keys_does_not_start(bench: Bench, hosts: Hosts) -> None:
    run = bench.run(ONE)
    with (
        pytest.raises(AssertionError, match="Lockstep cannot start: None of the keys in ENCRYPTION_KEYS"),
        hosts.worker("one", ENCRYPTION_KEYS=generate_key()) as process,
    ):
        assert process.wait(60) == 1
    assert "Traceback" not in hosts.log("one")
    assert lab.status(run) is RunStatus.PLAN_QUEUED


def test_a_postgresql_that_restarts_delays_and_loses_nothing(
    bench: Bench, hosts: Hosts, postgres_server: postgres.Server
) -> None:
    run = bench.run(ONE)
    with hosts.worker("one"):
        lab.until(lambda: lab.status(run) is not RunStatus.PLAN_QUEUED, "it is taken")
        db.session.remove()
        postgres_server.stop()
        postgres_server.start()
        run = db.session.get_one(Run, 1)
        until(run, RunStatus.AWAITING_CONFIRMATION, hosts, "one")
