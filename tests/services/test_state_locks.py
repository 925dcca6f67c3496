"""Runs, terminals and states at the same moment: there is one holder, one winner, and nothing is lost."""

from __future__ import annotations

import json
import uuid
from functools import partial
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent, Environment, Run, StateSource, StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import environments, holds, runs, state_locks, state_writes, states
from services.errors import Conflict
from services.state_locks import Locked
from services.states import StaleState
from tests import factories
from tests.services.test_races import at_once
from tests.support import lab
from tests.support.aws import Aws


def content(serial: int, text: str = "a", lineage: str = "8a2f") -> bytes:
    instance = {"attributes": {"id": text}}
    one = {"mode": "managed", "type": "terraform_data", "name": "it", "instances": [instance]}
    return json.dumps({"version": 4, "serial": serial, "lineage": lineage, "resources": [one]}).encode()


def lock(by: str, identifier: str = "") -> None:
    state_locks.take(factories.member(by), factories.environment(), {"ID": identifier or f"{by}-lock", "Who": by})


def serials() -> list[tuple[int, StateSource]]:
    db.session.rollback()
    found = [(version.serial, version.source) for version in db.session.query(StateVersion).order_by("number")]
    db.session.rollback()
    return found


def names(answers: list[Any]) -> list[str]:
    return sorted(type(answer).__name__ for answer in answers)


# -- at the same moment ------------------------------------------------------------------------------------------------


def test_two_terminals_at_once(here: Flask) -> None:
    factories.environment()
    db.session.commit()
    answers = at_once(here, partial(lock, "alice"), partial(lock, "bob"))
    assert names(answers) == ["Locked", "NoneType"]
    db.session.rollback()
    holder = factories.environment().state_lock_by
    [refused] = [answer for answer in answers if isinstance(answer, Locked)]
    assert holder is not None and refused.info["ID"].startswith(f"{holder.name}-lock ({holder.name}, ")
    assert len(list(db.session.scalars(select(AuditEvent).where(AuditEvent.action == "state.lock")))) == 1


def test_a_terminal_and_a_run_at_once(here: Flask) -> None:
    for _ in range(5):
        environment = factories.environment(active_run_id=None, state_lock_id=None, state_lock_by_id=None)
        run = factories.run(environment, RunStatus.PENDING)
        environment_id, run_id = environment.id, run.id
        db.session.commit()

        def hold(environment_id: int = environment_id, run_id: int = run_id) -> bool:
            held = holds.hold(environment_id, run_id)
            db.session.commit()
            return held

        answers = at_once(here, partial(lock, "bob"), hold)
        db.session.rollback()
        found = db.session.get_one(Environment, environment_id)
        db.session.refresh(found)
        assert (found.active_run_id is None) != (found.state_lock_id is None), answers
        runs.cancel(factories.member(), db.session.get_one(Run, run_id))


def test_two_saves_of_one_serial_at_once(here: Flask) -> None:
    factories.environment()
    db.session.commit()

    def save(text: str) -> None:
        state_writes.from_terminal(factories.member(), factories.environment(), content(5, text), None, "a token")

    answers = at_once(here, partial(save, "a"), partial(save, "b"))
    assert names(answers) == ["NoneType", "StaleState"]
    assert serials() == [(5, StateSource.TERMINAL)]


def test_a_lock_by_hand_and_a_save_at_once_are_in_an_order(here: Flask) -> None:
    factories.environment()
    db.session.commit()

    def save() -> None:
        state_writes.from_terminal(factories.member("alice"), factories.environment(), content(1), None, "a token")

    def by_hand() -> None:
        environments.lock(factories.member("bob"), factories.environment(), "Freeze")

    answers = at_once(here, save, by_hand)
    assert answers[1] is None
    assert serials() == ([] if isinstance(answers[0], Locked) else [(1, StateSource.TERMINAL)])


# -- a run's own state -------------------------------------------------------------------------------------------------


def test_a_run_replaces_its_own_version_and_nobody_elses(here: Flask) -> None:
    run = factories.run(factories.environment(), RunStatus.APPLYING)
    for text in ("a", "b"):  # terraform's local backend keeps one serial during an apply
        states.store(run, content(2, text))
        db.session.commit()
    assert serials() == [(2, StateSource.RUN)]
    other = factories.run(factories.environment(), RunStatus.APPLYING)
    for stale, said in (
        (content(2, "c"), "another content"),
        (content(1), "older"),
        (content(3, lineage="x"), "lineage"),
    ):
        with pytest.raises(StaleState, match=said):
            states.store(other, stale)
        db.session.rollback()
    states.store(other, content(3, "c"))
    db.session.commit()
    assert serials() == [(2, StateSource.RUN), (3, StateSource.RUN)]


def test_what_a_state_says_of_itself_is_kept_in_clear_only_where_terraform_made_it(here: Flask) -> None:
    """A run can write anything there, a secret too."""
    run, secret, made = factories.run(factories.environment(), RunStatus.APPLYING), "tr0ub4dor", str(uuid.UUID(int=7))
    hostile = json.loads(content(2, lineage=secret)) | {"terraform_version": f"1.11.4-{secret}"}
    version = states.store(run, json.dumps(hostile).encode())
    db.session.commit()
    assert version is not None and version.lineage.startswith("sha256:") and version.terraform_version == ""
    shown = [getattr(version, column.name) for column in StateVersion.__table__.columns]
    assert not any(secret in str(value) for value in shown)
    other = factories.run(factories.environment(), RunStatus.APPLYING)
    with pytest.raises(StaleState, match="another lineage"):
        states.store(other, content(3, lineage=version.lineage))
    db.session.rollback()
    assert states.store(other, content(3, lineage=secret)) is not None, "it continues all the same"
    db.session.commit()
    kept = states.prepare(factories.environment().id, content(9, lineage=made))
    saved = states.save(
        factories.environment().id, kept, source=StateSource.UPLOAD, user=factories.member().user, force=True
    )
    assert saved is not None and saved.lineage == made


def test_a_lineage_that_was_kept_as_it_is_goes_on(here: Flask) -> None:
    run = factories.run(factories.environment(), RunStatus.APPLIED)
    version = states.store(run, content(1))
    assert version is not None
    version.lineage = "8a2f"  # as older versions of Lockstep kept it
    db.session.commit()
    assert states.store(factories.run(factories.environment(), RunStatus.APPLYING), content(2)) is not None


def test_changes_are_counted_from_the_version_before_the_runs(here: Flask) -> None:
    first = factories.run(factories.environment(), RunStatus.APPLIED)
    states.store(first, content(1, "a"))
    second = factories.run(factories.environment(), RunStatus.APPLYING)
    for text in ("b", "c"):
        version = states.store(second, content(2, text))
        db.session.commit()
        assert version is not None and version.changes == {"add": 0, "change": 1, "destroy": 0}


def test_a_version_of_a_terminal_is_never_replaced_by_a_run(here: Flask) -> None:
    run = factories.run(factories.environment(), RunStatus.APPLIED)
    states.store(run, content(1))
    db.session.commit()
    state_writes.from_terminal(factories.member(), factories.environment(), content(2, "b"), None, "a token")
    with pytest.raises(StaleState):
        states.store(run, content(2, "c"))
    db.session.rollback()
    assert serials() == [(1, StateSource.RUN), (2, StateSource.TERMINAL)]


# -- waiting for a terminal --------------------------------------------------------------------------------------------


def test_a_pending_run_waits_for_a_terminal(here: Flask) -> None:
    lock("bob")
    run = lab.new_run(factories.environment())
    assert lab.status(run) is RunStatus.PENDING
    found = holds.holder(run.environment)
    assert found is not None and (found.kind, found.name) == (holds.HolderKind.TERMINAL, "bob")
    runs.start_pending(run.environment_id)
    assert lab.status(run) is RunStatus.PENDING
    state_locks.release(factories.member("bob"), factories.environment(), "bob-lock")
    assert lab.status(run) is RunStatus.PLAN_QUEUED


def test_no_code_is_spent_while_a_terminal_holds_the_state(here: Flask, aws: Aws) -> None:
    lab.aws_keys(aws, "alice")
    run = lab.new_run(factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES))
    lock("bob")
    with pytest.raises(Conflict, match=r"network is held by a terminal of bob \(bob\)\. Nothing was changed"):
        lab.authenticate(run, aws.code())
    assert aws.outcomes() == []
    assert lab.attempts(run.plan) == []
    state_locks.release(factories.member("bob"), factories.environment(), "bob-lock")
    lab.authenticate(run, aws.code())
    assert lab.status(run) is RunStatus.PLAN_QUEUED
    aws.reset()
