"""What a run takes over of the secrets of earlier ones; with real runs in tests/worker/test_hidden.py."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask

from extensions import db
from models import Environment, Run, StateSource
from policy.lifecycle import RunStatus
from services import clock, run_secrets
from tests import factories


@pytest.fixture
def environment(here: Flask) -> Environment:
    return factories.environment()


def apply(of: Environment, status: RunStatus, secret: str, *, minutes_ago: int = 0, serial: int | None = 1) -> Run:
    """A run that began its apply so long ago; without ``serial`` it saved no state."""
    run = factories.run(of, status)
    run.apply.started_at = clock.now() - timedelta(minutes=minutes_ago)
    run_secrets.keep(run.id, {secret})
    db.session.commit()
    if serial is not None:
        factories.state(run, serial)
    return run


def left(of: Environment, state: bytes, others: set[str] | None = None) -> set[str]:
    """What a new run takes over."""
    return run_secrets.left(factories.run(of), others or set(), state)


def test_of_a_good_apply_what_stands_in_the_state(environment: Environment) -> None:
    apply(environment, RunStatus.APPLIED, "secret-of-the-first", serial=1, minutes_ago=9)
    apply(environment, RunStatus.APPLIED, "secret-of-the-second", serial=2)
    assert left(environment, b'{"a": "secret-of-the-first"}') == set(), "the second would have taken it over"
    assert left(environment, b'{"a": "secret-of-the-second"}') == {"secret-of-the-second"}
    assert left(environment, b'{"a": "somebodys-own"}', {"somebodys-own", "another-own"}) == {"somebodys-own"}


@pytest.mark.parametrize("status", [RunStatus.ERRORED, RunStatus.CANCELED, RunStatus.INTERRUPTED, RunStatus.APPLYING])
def test_of_an_apply_that_did_not_end_well_everything(environment: Environment, status: RunStatus) -> None:
    apply(environment, status, "secret-of-the-first")
    assert left(environment, b"{}", {"somebodys-own"}) == {"secret-of-the-first", "somebodys-own"}


def test_of_an_apply_that_saved_no_state_everything(environment: Environment) -> None:
    apply(environment, RunStatus.APPLIED, "secret-of-the-first", serial=None)
    assert left(environment, b"{}") == {"secret-of-the-first"}


def test_of_an_encrypted_state_everything(environment: Environment) -> None:
    apply(environment, RunStatus.APPLIED, "secret-of-the-first")
    encrypted = b'{"serial":1,"lineage":"l","meta":{},"encrypted_data":"c2VjcmV0","encryption_version":"v0"}'
    assert left(environment, encrypted) == {"secret-of-the-first"}


def test_the_last_apply_is_the_one_that_began_last(environment: Environment) -> None:
    """It had waited for a code while a newer run went before it."""
    apply(environment, RunStatus.ERRORED, "secret-of-the-first", serial=None, minutes_ago=1)
    apply(environment, RunStatus.APPLIED, "secret-of-the-second", serial=2, minutes_ago=9)
    assert "secret-of-the-first" in left(environment, b"{}")


def test_of_a_plan_nothing(environment: Environment) -> None:
    run = factories.run(environment, RunStatus.PLANNED_AND_FINISHED)
    run_secrets.keep(run.id, {"secret-of-the-plan"})
    db.session.commit()
    assert left(environment, b'{"a": "secret-of-the-plan"}') == set()


def test_of_many_applies_the_newest_are_asked_for_what_somebody_brought_back(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database takes so many parameters and no more."""
    monkeypatch.setattr(run_secrets, "MOST", 2)
    for serial in range(1, 4):
        run = apply(environment, RunStatus.APPLIED, f"secret-{serial}", serial=serial, minutes_ago=9 - serial)
    uploaded = factories.state(run, 4)
    uploaded.run_id, uploaded.source = None, StateSource.UPLOAD
    db.session.commit()
    assert left(environment, b"secret-1 secret-2 secret-3") == {"secret-2", "secret-3"}
