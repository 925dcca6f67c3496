"""Runs on a PostgreSQL that fails over: for a while what answers at its address is a server that only reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

import config
from extensions import db
from policy.lifecycle import RunStatus
from services.storage import logs
from tests.support import lab, postgres
from tests.support.aws import Aws
from tests.worker.configurations import held
from tests.worker.conftest import Bench


@pytest.fixture
def address(postgres_server: postgres.Server) -> str:
    return postgres_server.database()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, address: str, one_aws: Aws) -> config.Config:
    home = str(tmp_path / "home")
    shared = {"REDIS_URL": redis_url, "AWS_ENDPOINT_URL": one_aws.endpoint}
    return config.load({"LOCKSTEP_HOME": home, "DATABASE_URL": address, **shared})


@pytest.fixture(autouse=True)
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child leaves the connections of its parent open; these phases run in the test's own process."""
    dispose = Engine.dispose
    monkeypatch.setattr(Engine, "dispose", lambda self, close=True: dispose(self))


@contextmanager
def standby(address: str) -> Iterator[None]:
    """Every connection is cut, and every new one reaches a server that only reads; those made meanwhile go on so."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        connection.execute(others, (name,))
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@pytest.mark.terraform
def test_a_failover_in_mid_apply_delays_the_log_and_nothing_else(
    bench: Bench, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = tmp_path / "gate"
    run, phase = bench.applying(held(gate))
    db.session.remove()
    with standby(address):
        lab.until(lambda: "the database is away: ReadOnlySqlTransaction" in caplog.text, "the worker notices")
        gate.touch()
        before = caplog.text.count("the database is away")
        lab.until(lambda: caplog.text.count("the database is away") > before + 10, "it goes on trying")
    phase.result()
    run = db.session.get_one(type(run), 1)
    assert lab.status(run) is RunStatus.APPLIED, run.error
    said = lab.log_of(run.apply)
    assert said.count("Apply complete! Resources: 2 added") == 1
    assert said.count("terraform_data.second: Creation complete") == 1
    assert len(b"".join(logs.raw(run.apply.id))) == run.apply.log_size
    assert "failed inside Lockstep" not in caplog.text


@pytest.mark.usefixtures("bench")
def test_a_connection_to_a_standby_is_not_kept(address: str) -> None:
    update = "UPDATE run SET message = 'x' WHERE id = 0"
    with standby(address):
        with pytest.raises(OperationalError, match="read-only"):
            db.session.execute(text(update))
        db.session.rollback()
    db.session.execute(text(update))
    db.session.rollback()


@pytest.mark.usefixtures("bench")
def test_a_transaction_that_the_server_ended_is_the_database_away() -> None:
    db.session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
    db.session.execute(text("SELECT pg_sleep(0)"))
    time.sleep(0.5)
    with pytest.raises(OperationalError, match="idle-in-transaction"):
        db.session.execute(text("SELECT 1"))
    db.session.rollback()
    assert db.session.execute(text("SELECT 1")).scalar() == 1
