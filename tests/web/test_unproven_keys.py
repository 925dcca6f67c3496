"""A process that started while the database was away proves its keys before it serves or works."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

import worker
from extensions import db
from models import Phase, PhaseStatus
from policy.lifecycle import RunStatus
from services.execution import job, reconcile
from services.storage import key_check, sealed
from services.storage.vault import Vault, generate_key
from tests import factories
from tests.factories import World
from tests.support.client import Client

Start = Callable[..., None]


@pytest.fixture
def start(app: Flask, world: World, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start as a process does, with other keys or the installation's own, while the database is away."""
    with app.app_context():
        key_check.prove()
        factories.variable("PSK", "sealed with the installation's key", sensitive=True)

    def again(*, good: bool) -> None:
        if not good:
            other = dataclasses.replace(app.config["LOCKSTEP"], vault=Vault.from_text(generate_key()))
            monkeypatch.setitem(app.config, "LOCKSTEP", other)
        with app.app_context(), monkeypatch.context() as patch:
            patch.setattr(sealed, "reading", _away)
            key_check.prove()

    return again


def _away() -> Any:
    raise OperationalError("SELECT 1", None, ConnectionError("away"))


def everything(app: Flask) -> dict[str, int]:
    """How many rows each table has."""
    with app.app_context():
        tables = db.metadata.sorted_tables
        return {table.name: db.session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def test_with_other_keys_no_request_is_served(
    app: Flask, start: Start, alice: Client, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    token, before = alice.token(), everything(app)
    start(good=False)
    variable = {"csrf_token": token, "name": "PSK_2", "value": "not to be sealed", "category": "env"}
    for answer in (
        alice.post("/settings/organization_variables/acme/shared", data=variable),
        alice.get(world.home),
        alice.get("/login", headers={"HX-Request": "true"}),
        alice.get("/health"),
        alice.post(f"/api/v1/states/acme/{world.environment}", data=b"{}", auth=("alice", "x")),
    ):
        text = answer.get_data(as_text=True)
        assert answer.status_code == 503 and "Nothing was changed" in text and "other keys" in text, text
        assert "key id" not in text  # that, and what to do, is for who runs the installation
    assert everything(app) == before
    assert "Put that key back" in caplog.text and "Traceback" not in caplog.text
    with alice.get("/static/app.css") as file:
        assert file.status_code == 200


def test_with_the_right_keys_the_first_request_proves_them(
    app: Flask, start: Start, alice: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(good=True)
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "reading", _away)
        assert alice.get(world.home).status_code == 503  # still away
    assert alice.get(world.home).status_code == 200
    monkeypatch.setattr(sealed, "reading", _away)
    assert alice.get(world.home).status_code == 200  # once is enough


def test_a_key_that_is_put_right_in_the_database_counts_without_a_restart(
    app: Flask, start: Start, alice: Client, world: World
) -> None:
    start(good=False)
    assert alice.get(world.home).status_code == 503
    with app.app_context():
        key_check.begin_anew()
    assert alice.get(world.home).status_code == 200


def test_with_other_keys_no_phase_is_taken_and_the_worker_ends(
    app: Flask, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with app.app_context():
        run = factories.run(factories.environment(), RunStatus.PLAN_QUEUED)
        phase_id, run.plan.status = run.plan.id, PhaseStatus.QUEUED
        db.session.commit()
    before = everything(app)
    start(good=False)
    with app.app_context():
        job.run_phase(phase_id)
        assert db.session.get_one(Phase, phase_id).status is PhaseStatus.QUEUED
    with app.app_context(), caplog.at_level(logging.INFO):
        reconcile.look_around()
        with pytest.raises(SystemExit):
            worker.settle(app)
    assert everything(app) == before
    assert "Put that key back" in caplog.text and "Traceback" not in caplog.text


def test_a_worker_that_still_finds_no_database_waits(app: Flask, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start(good=True)
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "reading", _away)
        worker.settle(app)
        assert app.extensions[key_check.OWED]
    worker.settle(app)
    assert not app.extensions[key_check.OWED]


def test_a_command_without_a_database_says_so(app: Flask, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "reading", _away)
    done = app.test_cli_runner().invoke(args=["organization", "create", "new"])
    assert done.exit_code == 1 and "Nothing was changed" in done.output and "Traceback" not in done.output
