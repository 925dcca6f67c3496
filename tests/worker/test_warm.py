"""What a worker does once, so that the phases that it forks need not."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from extensions import db
from policy.lifecycle import RunStatus
from services.execution import rehearsal, terraform, warm
from services.mfa import sts
from tests.worker.configurations import ONE
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def compiled(bench: Bench, *, first: bool) -> int:
    """How many statements a plan had to compile, with ``first`` the worker's own warming up before it."""
    run = bench.run(ONE)
    cache: Any = db.engine._compiled_cache
    db.session.commit()
    cache.clear()
    rehearsal._rehearsed.clear()
    if first:
        warm.warm_up()
    before = len(cache)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
    bench.environment.active_run_id = None
    db.session.commit()
    return len(cache) - before


def test_statements_are_compiled_before(bench: Bench) -> None:
    cold, warmed = compiled(bench, first=False), compiled(bench, first=True)
    if db.engine.dialect.name == "sqlite":
        assert warmed <= 6 < cold / 4  # blobs, the attributes of the plan, and what the test itself asks
    else:
        assert warmed <= cold - 6


def test_a_rehearsal_leaves_the_database_alone(bench: Bench) -> None:
    """It plays in memory: nothing of it is in the installation's, and nothing waits for a lock of it."""
    rows = {
        table.name: db.session.scalar(select(func.count()).select_from(table)) for table in db.metadata.sorted_tables
    }
    db.session.commit()
    rehearsal._rehearsed.clear()
    session = db.session()
    assert rehearsal.rehearse() == (db.engine.dialect.name == "sqlite")
    assert db.session() is session
    after = {
        table.name: db.session.scalar(select(func.count()).select_from(table)) for table in db.metadata.sorted_tables
    }
    assert after == rows


def test_a_fault_in_a_rehearsal_fails_no_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> None:
        raise RuntimeError

    monkeypatch.setattr(rehearsal, "_play", play)
    rehearsal._rehearsed.clear()
    warm.warm_up()
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error


def test_the_version_is_asked_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terraform, "_versions", {})
    warm.warm_up()
    real = terraform.capture

    def capture(found: terraform.Terraform, args: list[str], **options: Any) -> bytes:
        assert args[0] != "version"
        return real(found, args, **options)

    monkeypatch.setattr(terraform, "capture", capture)
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error


def test_without_terraform_the_worker_starts_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.settings(monkeypatch, terraform_bin="/nowhere/terraform")
    warm.warm_up()
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "terraform_missing"


def test_what_clients_of_aws_are_made_from_is_read_before(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    sts._descriptions.cache_clear()
    with app.app_context():
        warm.warm_up()

    def read(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", read)
    config = app.config["LOCKSTEP"]
    for number in range(2):
        made = sts._client(config, f"AKIA{number}", "secret", "token", "eu-central-1")
        assert made.meta.region_name == "eu-central-1"
