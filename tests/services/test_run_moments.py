"""Runs at the worst moment: what may be open while Redis is asked, and what changes between a look and a write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from extensions import db
from models import Environment
from policy.lifecycle import Event, RunStatus
from policy.mfa import MfaLevel
from services import environments, queue, runs
from services.environments import Settings
from services.errors import Conflict
from tests import factories
from tests.support import lab


@pytest.fixture
def environment(here: Flask) -> Environment:
    return factories.environment()


def before(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], None]) -> None:
    """Make ``change`` happen once, right before the first call of ``runs.<name>``."""
    real, pending = getattr(runs, name), [change]

    def wrapped(*arguments: Any, **more: Any) -> Any:
        while pending:
            pending.pop()()
        return real(*arguments, **more)

    monkeypatch.setattr(runs, name, wrapped)


def test_no_transaction_is_open_while_a_phase_is_enqueued(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ones: list[bool] = []
    real = queue.queue

    def looked(*arguments: Any, **named: Any) -> Any:
        open_ones.append(db.session().in_transaction())
        return real(*arguments, **named)

    monkeypatch.setattr(queue, "queue", looked)
    run = lab.new_run(environment)
    assert run.status is RunStatus.PLAN_QUEUED
    assert open_ones == [False]
    assert len(lab.queued_jobs()) == 1
    job = queue.queue().get_jobs()[0]
    assert job.id == queue.job_id(run.plan), "the same queueing has the same name wherever it is enqueued from"


def test_a_level_lowered_while_a_pending_run_moves_aside_lets_it_take_its_turn(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = lab.new_run(environment)
    run = lab.new_run(environment)
    environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()

    def lowered() -> None:
        environment.mfa_level = MfaLevel.NEVER
        db.session.commit()

    before(monkeypatch, "transition", lowered)
    runs.start_pending(environment.id)
    assert lab.status(run) is RunStatus.PENDING
    assert environment.active_run_id == holder.id
    assert len(lab.queued_jobs()) == 1


def test_a_level_raised_while_a_pending_run_starts_asks_for_a_code(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = lab.new_run(environment)
    run = lab.new_run(environment)
    assert run.status is RunStatus.PENDING
    runs.transition(holder, Event.CANCEL)
    db.session.commit()
    queue.queue().empty()

    def raised() -> None:
        environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
        db.session.flush()

    before(monkeypatch, "transition", raised)
    runs.start_pending(environment.id)
    assert lab.status(run) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert lab.queued_jobs() == []
    assert environment.active_run_id is None
    assert run.plan.queued_at is None


def test_a_lock_put_on_at_the_moment_of_confirmation_wins(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factories.run(environment, RunStatus.AWAITING_CONFIRMATION)
    before(monkeypatch, "transition", lambda: environments.lock(factories.member("bob"), environment, "a fire"))
    with pytest.raises(Conflict, match=r"network is locked by bob: a fire"):
        runs.confirm(factories.member(), run)
    db.session.rollback()
    assert lab.status(run) is RunStatus.AWAITING_CONFIRMATION
    assert lab.queued_jobs() == []


def test_a_run_that_moves_on_keeps_no_settings_from_being_saved(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factories.run(environment, RunStatus.AWAITING_CONFIRMATION)

    def lost(*_: object) -> None:
        raise Conflict(runs.MOVED_ON)

    monkeypatch.setattr(runs, "transition", lost)
    environments.save_settings(factories.member(), environment, Settings(MfaLevel.APPLIES_ONLY, 3600, "", ""))
    db.session.expire_all()
    assert environment.mfa_level is MfaLevel.APPLIES_ONLY
    assert run.status is RunStatus.AWAITING_CONFIRMATION
