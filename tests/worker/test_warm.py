"""What a worker does once, so that the phases that it forks need not."""

from __future__ import annotations

from typing import Any

import pytest

from extensions import db
from policy.lifecycle import RunStatus
from services.execution import terraform, warm
from tests.worker.configurations import ONE
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def compiled(bench: Bench, *, first: bool) -> int:
    """How many statements a plan had to compile, with ``first`` the worker's own warming up before it."""
    run = bench.run(ONE)
    cache: Any = db.engine._compiled_cache
    db.session.commit()
    cache.clear()
    if first:
        warm.warm_up()
    before = len(cache)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
    bench.environment.active_run_id = None
    db.session.commit()
    return len(cache) - before


def test_the_wide_queries_are_compiled_before(bench: Bench) -> None:
    cold = compiled(bench, first=False)
    assert compiled(bench, first=True) <= cold - 6


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
