"""What `flask doctor` finds on a machine where all is well, and on one where it is not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
from flask import Flask
from rq import Worker
from rq.serializers import JSONSerializer

import config
from extensions import db
from policy.permissions import Role
from services import doctor, queue, sts_reach
from services.doctor import Finding, Status
from services.execution import network_check
from services.storage.vault import Vault, generate_key
from tests import factories
from tests.deploy.launcher import free_port

Usage = namedtuple("Usage", "total used free")


def found(app: Flask, subject: str) -> Finding:
    with app.app_context():
        return next(finding for finding in doctor.examine() if finding.subject == subject)


@contextmanager
def serving(date: str | None, status: int = 302) -> Iterator[str]:
    """An HTTP server that answers as STS does to a bare GET, with this Date header."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", date)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Iterator[config.Config]:
    """As the usual ones, with an STS that has the right time."""
    with serving(format_datetime(datetime.now(UTC), usegmt=True)) as endpoint:
        yield with_endpoint(tmp_path, redis_url, endpoint)


def with_endpoint(tmp_path: Path, redis_url: str, endpoint: str) -> config.Config:
    return config.load(
        {"LOCKSTEP_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url, "AWS_ENDPOINT_URL_STS": endpoint}
    )


def test_all_is_well(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    reach = network_check.Reach((), port=False, why="")  # test_doctor_network.py looks at it
    monkeypatch.setattr(network_check, "look", lambda *_: reach)
    os.chmod(app.config["LOCKSTEP"].home / "lockstep.db", 0o600)
    with app.app_context():
        db.drop_all()
        flask_migrate.upgrade()
        client = queue.connection()
        worker = Worker([queue.queue()], connection=client, serializer=JSONSerializer)
        worker.register_birth()
        findings = list(doctor.examine())
        worker.register_death()
    assert [(each.subject, each.status) for each in findings if each.subject != "Disk space"] == [
        (subject, Status.OK)
        for subject in (
            "File modes", "Database", "Migrations", "Redis", "Workers", "Terraform", "Sandbox",
            "Network of runs", "AWS STS", "Clock",
        )
    ]  # fmt: skip
    assert all(not each.advice for each in findings if each.status is Status.OK)


def test_files_that_others_can_read(app: Flask) -> None:
    key = app.config["LOCKSTEP"].home / "encryption_keys"
    key.chmod(0o640)
    finding = found(app, "File modes")
    assert finding.status is Status.PROBLEM
    assert f"chmod 600 {key}" in finding.advice


@pytest.mark.parametrize(
    ("free", "status"), [(100 << 30, Status.OK), (2 << 30, Status.WARNING), (1 << 20, Status.PROBLEM)]
)
def test_disk_space(app: Flask, monkeypatch: pytest.MonkeyPatch, free: int, status: Status) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    assert found(app, "Disk space").status is status


def test_tables_that_no_migration_made(app: Flask) -> None:
    finding = found(app, "Migrations")
    assert finding.status is Status.PROBLEM
    assert "flask db upgrade" in finding.advice


def test_a_database_that_is_away(app: Flask) -> None:
    with app.app_context():
        db.engine.dispose()
    path = app.config["LOCKSTEP"].home / "lockstep.db"
    for each in path.parent.glob("lockstep.db*"):
        each.unlink()
    path.mkdir()
    finding = found(app, "Database")
    assert finding.status is Status.PROBLEM
    assert "DATABASE_URL" in finding.advice


def test_keys_of_one_machine_beside_a_database_of_many(tmp_path: Path) -> None:
    environ = {"LOCKSTEP_HOME": str(tmp_path), "DATABASE_URL": "postgresql://nobody@localhost/nothing"}
    queue_, finding = doctor._keys(config.load(environ))
    assert (queue_.subject, queue_.status, "REDIS_URL" in queue_.advice) == ("Queue", Status.WARNING, True)
    assert finding.status is Status.WARNING
    assert "SECRET_KEY and ENCRYPTION_KEYS come from the data folder" in finding.detail
    both = {"SECRET_KEY": "x" * 32, "ENCRYPTION_KEYS": generate_key(), "REDIS_URL": "redis://:password@one.for.all"}
    assert list(doctor._keys(config.load(environ | both))) == []
    assert list(doctor._keys(config.load({"LOCKSTEP_HOME": str(tmp_path)}))) == []


def test_keys_that_do_not_open_what_was_stored(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.app_context():
        factories.member("alice", "acme", Role.OWNER)
        factories.variable("NAME", "value")
        assert list(doctor._stored(app.config["LOCKSTEP"])) == []
        others = dataclasses.replace(app.config["LOCKSTEP"], vault=Vault.from_text(generate_key()))
        (finding,) = doctor._stored(others)
    assert finding.status is Status.PROBLEM
    assert "ENCRYPTION_KEYS" in finding.detail


def test_no_worker(app: Flask) -> None:
    assert found(app, "Workers").status is Status.PROBLEM


def test_a_worker_that_was_killed_does_not_count(app: Flask) -> None:
    with app.app_context():
        worker = Worker([queue.queue()], connection=queue.connection(), serializer=JSONSerializer)
        worker.pid = 2**22 + 1  # above the kernel's largest process id
        worker.register_birth()
    assert found(app, "Workers").status is Status.PROBLEM


def test_redis_away(app: Flask) -> None:
    away = queue.connect("unix:///nowhere/redis.sock")
    app.extensions["lockstep-redis"], kept = away, app.extensions["lockstep-redis"]
    finding = found(app, "Redis")
    app.extensions["lockstep-redis"] = kept
    assert finding.status is Status.PROBLEM
    assert "make run" in finding.advice


def test_no_terraform() -> None:
    finding = doctor._terraform("/nowhere/terraform")
    assert finding.status is Status.PROBLEM
    assert "TERRAFORM_BIN" in finding.advice


@pytest.mark.parametrize(
    ("skew", "status"),
    [(10, Status.OK), (-10, Status.OK), (60, Status.WARNING), (-60, Status.WARNING), (400, Status.PROBLEM)],
)
def test_the_clock(app: Flask, skew: int, status: Status) -> None:
    theirs = datetime.now(UTC) + timedelta(seconds=skew)
    findings = {each.subject: each for each in doctor._sts(app.config["LOCKSTEP"], lambda _: theirs)}
    assert findings["Clock"].status is status
    assert ("NTP" in findings["Clock"].advice) is (status is not Status.OK)


@pytest.mark.parametrize(("date", "sentence"), [(None, "without a Date header"), ("today", "so it is not STS")])
def test_a_server_that_is_not_sts(tmp_path: Path, redis_url: str, date: str | None, sentence: str) -> None:
    with serving(date, 200) as endpoint, pytest.raises(sts_reach.Unreachable, match=sentence):
        sts_reach.ask(with_endpoint(tmp_path, redis_url, endpoint))


def test_sts_away(tmp_path: Path, redis_url: str) -> None:
    away = with_endpoint(tmp_path, redis_url, f"http://127.0.0.1:{free_port()}")
    (finding,) = doctor._sts(away)
    assert finding.status is Status.PROBLEM
    assert "does not answer: " in finding.detail
    assert "HTTPS_PROXY" in finding.advice


def test_only_http_is_asked(tmp_path: Path, redis_url: str) -> None:
    with pytest.raises(sts_reach.Unreachable, match="no http or https address"):
        sts_reach.ask(with_endpoint(tmp_path, redis_url, "file:///etc/passwd"))


@pytest.mark.parametrize(
    ("fips", "host"), [("", "sts.us-east-1.amazonaws.com"), ("true", "sts-fips.us-east-1.amazonaws.com")]
)
def test_without_a_setting_sts_is_amazons(tmp_path: Path, fips: str, host: str) -> None:
    found = config.load({"LOCKSTEP_HOME": str(tmp_path / "home"), "AWS_USE_FIPS_ENDPOINT": fips})
    assert sts_reach.endpoint(found) == f"https://{host}"


def test_folders_that_others_can_read(app: Flask) -> None:
    folder = app.config["LOCKSTEP"].home / "logs"
    folder.mkdir(mode=0o755)
    assert f"chmod 700 {folder}" in found(app, "File modes").advice
