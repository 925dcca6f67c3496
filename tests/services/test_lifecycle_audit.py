"""Each change of a run's status leaves exactly one audit event, by whichever way it came about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent, Environment, Phase, PhaseStatus, Run
from policy.lifecycle import GIVE_UP_AFTER, LEASE, Event, RunStatus
from policy.mfa import MfaLevel, PhaseKind
from services import clock, environments, force, queue, runs
from services.environments import Settings
from services.execution import beginning, ending, host, interruption, steps, taking
from services.execution.follow import Outcome
from services.execution.work import PhaseFailed, Work
from tests import factories
from tests.support import lab
from tests.support.aws import Aws

S = RunStatus
NEVER, APPLIES, BOTH = MfaLevel.NEVER, MfaLevel.APPLIES_ONLY, MfaLevel.PLANS_AND_APPLIES

#: The action that each event of policy/lifecycle.py is recorded as, and whether it is somebody's doing.
ACTIONS: dict[Event, set[tuple[str, str]]] = {
    Event.START: {("run.start", "Lockstep")},
    Event.AUTHENTICATE: {("run.authenticate", "alice")},
    Event.TAKE: {("run.take", "Lockstep")},
    Event.GATE_CLOSED: {("run.gate_closed", "Lockstep")},
    Event.NEVER_BEGAN: {("run.gate_closed", "Lockstep")},
    Event.FINISH_UNCHANGED: {("run.planned_and_finished", "Lockstep")},
    Event.FINISH_PLAN: {("run.awaiting_confirmation", "Lockstep"), ("run.awaiting_apply_authentication", "Lockstep")},
    Event.FINISH_APPLY: {("run.applied", "Lockstep")},
    Event.CONFIRM: {("run.confirm", "alice"), ("run.gate_raised", "alice")},
    Event.RAISE: {("run.gate_raised", "alice")},
    Event.FAIL: {("run.errored", "Lockstep")},
    Event.DISCARD: {("run.discard", "alice")},
    Event.CANCEL: {("run.cancel", "alice")},
    Event.STOPPED: {("run.canceled", "Lockstep")},
    Event.VANISH: {("run.interrupted", "Lockstep"), ("run.give_up", "alice")},
}


@dataclass
class Stage:
    """Where runs are walked through; ``seen`` are the transitions that were made, in order."""

    home: Path
    aws: Aws
    environment: Environment
    seen: list[Event]

    def queued(self, level: MfaLevel = NEVER) -> Run:
        """A new run, started as far as it goes by itself."""
        self.environment.mfa_level = level
        db.session.commit()
        return lab.new_run(self.environment)

    def at(self, status: RunStatus, level: MfaLevel = NEVER) -> Run:
        """A run put into ``status``; its phase is this process's when one runs."""
        self.environment.mfa_level = level
        db.session.commit()
        run = factories.run(self.environment, status)
        if status in (S.PLANNING, S.APPLYING):
            phase = run.plan if status is S.PLANNING else run.apply
            phase.status, phase.queued_at, phase.started_at = PhaseStatus.RUNNING, clock.now(), clock.now()
            phase.worker, phase.heartbeat_at = host.worker(), clock.now()
            db.session.commit()
        return run

    def work(self, run: Run) -> Work:
        phase = run.plan if run.status is S.PLANNING else run.apply
        root = self.home / "work" / "none"
        (root / "config").mkdir(parents=True, exist_ok=True)
        return steps.of_ended(phase, root)

    def finish(self, status: RunStatus, event: Event, level: MfaLevel = NEVER) -> Run:
        run = self.at(status, level)
        ended = PhaseStatus.CANCELED if event is Event.STOPPED else PhaseStatus.FINISHED
        ending.finish(self.work(run), event, Outcome(0, "", False, 1.0), "It ended", {}, ended)
        return run


@pytest.fixture
def stage(here: Flask, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Nothing is unpacked and no terraform is started."""
    lab.aws_keys(aws)
    seen: list[Event] = []
    real = runs.transition

    def transition(run: Run, event: Event, **values: Any) -> RunStatus:
        new = real(run, event, **values)
        seen.append(event)
        return new

    monkeypatch.setattr(runs, "transition", transition)
    monkeypatch.setattr(beginning, "prepare", lambda *_: None)
    monkeypatch.setattr(ending, "unkept", lambda _: "")
    monkeypatch.setattr(interruption, "gather", lambda work, *_: interruption.known(work.run, work.phase))
    return Stage(here.config["LOCKSTEP"].home, aws, factories.environment(), seen)


def raise_level(environment: Environment) -> None:
    environments.save_settings(factories.member(), environment, Settings(APPLIES, 3600, "", ""))


def confirm_after_a_raise(stage: Stage) -> Run:
    run = stage.at(S.AWAITING_CONFIRMATION)
    stage.environment.mfa_level = APPLIES
    db.session.commit()
    runs.confirm(factories.member(), run)
    return run


def confirm(stage: Stage) -> Run:
    run = stage.at(S.AWAITING_CONFIRMATION)
    runs.confirm(factories.member(), run)
    return run


def take(stage: Stage) -> Run:
    run = stage.queued()
    taking.take(run.plan.id)
    return run


def gate_closed(stage: Stage) -> Run:
    run = stage.queued(BOTH)
    lab.authenticate(run, stage.aws.code())
    queue.connection().flushall()  # the credentials are gone
    taking.take(run.plan.id)
    return run


def authenticate(stage: Stage) -> Run:
    run = stage.queued(BOTH)
    lab.authenticate(run, stage.aws.code())
    return run


def never_began(stage: Stage) -> Run:
    run = stage.at(S.PLANNING, BOTH)
    ending.close_gate(run.plan, Event.NEVER_BEGAN, "The worker was lost.")
    return run


def raised(stage: Stage) -> Run:
    run = stage.at(S.AWAITING_CONFIRMATION)
    raise_level(stage.environment)
    return run


def fail(stage: Stage) -> Run:
    run = stage.at(S.PLANNING)
    ending.fail(run.plan.id, PhaseFailed("a_code", "It failed."), None)
    return run


def discard(stage: Stage) -> Run:
    run = stage.at(S.AWAITING_CONFIRMATION)
    runs.discard(factories.member(), run)
    return run


def cancel(stage: Stage) -> Run:
    run = stage.queued()
    runs.cancel(factories.member(), run)
    return run


def vanish(stage: Stage) -> Run:
    run = stage.at(S.APPLYING)
    ending.interrupt(stage.work(run), "apply")
    return run


def give_up(stage: Stage) -> Run:
    run = stage.at(S.APPLYING)
    run.apply.heartbeat_at = clock.now() - GIVE_UP_AFTER - timedelta(seconds=1)
    db.session.commit()
    force.give_up(factories.member(), run)
    return run


WAYS: dict[str, tuple[Event, Callable[[Stage], Run]]] = {
    "start, queued": (Event.START, lambda stage: stage.queued()),
    "start, a code is awaited": (Event.START, lambda stage: stage.queued(BOTH)),
    "authenticate": (Event.AUTHENTICATE, authenticate),
    "take": (Event.TAKE, take),
    "gate closed": (Event.GATE_CLOSED, gate_closed),
    "never began": (Event.NEVER_BEGAN, never_began),
    "unchanged": (Event.FINISH_UNCHANGED, lambda stage: stage.finish(S.PLANNING, Event.FINISH_UNCHANGED)),
    "planned": (Event.FINISH_PLAN, lambda stage: stage.finish(S.PLANNING, Event.FINISH_PLAN)),
    "planned behind a gate": (Event.FINISH_PLAN, lambda stage: stage.finish(S.PLANNING, Event.FINISH_PLAN, APPLIES)),
    "applied": (Event.FINISH_APPLY, lambda stage: stage.finish(S.APPLYING, Event.FINISH_APPLY)),
    "confirm": (Event.CONFIRM, confirm),
    "confirm after a raise": (Event.CONFIRM, confirm_after_a_raise),
    "raise": (Event.RAISE, raised),
    "fail": (Event.FAIL, fail),
    "discard": (Event.DISCARD, discard),
    "cancel": (Event.CANCEL, cancel),
    "stopped": (Event.STOPPED, lambda stage: stage.finish(S.APPLYING, Event.STOPPED)),
    "vanish": (Event.VANISH, vanish),
    "give up": (Event.VANISH, give_up),
}


def of_run(run: Run) -> list[AuditEvent]:
    query = select(AuditEvent).where(AuditEvent.run_id == run.id, AuditEvent.action != "run.create")
    return list(db.session.scalars(query.order_by(AuditEvent.sequence)))


def test_every_event_of_the_lifecycle_is_walked() -> None:
    assert set(ACTIONS) == set(Event)
    assert {event for event, _ in WAYS.values()} == set(Event)


@pytest.mark.parametrize("way", WAYS)
def test_each_transition_leaves_exactly_one_event(stage: Stage, way: str) -> None:
    event, walk = WAYS[way]
    run = walk(stage)
    told = of_run(run)
    assert stage.seen[-1] is event
    assert len(told) == len(stage.seen), (stage.seen, [made.action for made in told])
    for made, happened in zip(told, stage.seen, strict=True):
        assert (made.action, made.actor_name) in ACTIONS[happened]
        assert made.sequence is not None and made.environment_id == stage.environment.id


def test_every_action_is_met(stage: Stage) -> None:
    """Else the table could name one that nothing records."""
    met = set()
    for _, walk in WAYS.values():
        met |= {(made.action, made.actor_name) for made in of_run(walk(stage))}
        factories.environment(active_run_id=None)
        stage.environment.mfa_level = NEVER
        db.session.commit()
    assert met == set().union(*ACTIONS.values())


def test_a_start_says_from_which_status_to_which(stage: Stage) -> None:
    assert of_run(stage.queued())[0].details == {"status": ["Pending", "Plan queued"]}
    assert of_run(stage.queued(BOTH))[0].details == {"status": ["Pending", "Awaiting authentication"]}


def test_a_pending_run_that_is_started_by_the_end_of_another_is_recorded_then(stage: Stage) -> None:
    first, second = stage.queued(), stage.queued()
    assert of_run(second) == []
    runs.cancel(factories.member(), first)
    assert [made.action for made in of_run(second)] == ["run.start"]


def test_a_take_names_phase_and_worker(stage: Stage) -> None:
    made = of_run(take(stage))[-1]
    assert made.details == {"phase": "plan", "worker": host.worker()}


def test_a_phase_that_is_taken_over_names_both_workers(stage: Stage) -> None:
    run = stage.at(S.APPLYING)
    phase: Phase = run.phase(PhaseKind.APPLY)
    phase.worker, phase.heartbeat_at = "web1-3f9a1c:7", clock.now() - LEASE - timedelta(seconds=1)
    db.session.commit()
    taking.adopt(phase.id)
    taking.adopt(phase.id)  # the lease is held: nothing more happens
    [made] = of_run(run)
    assert (made.action, made.actor_name) == ("run.adopt", "Lockstep")
    assert made.details == {"phase": "apply", "worker": ["web1-3f9a1c:7", host.worker()]}
    assert stage.seen == []


def test_what_is_not_taken_is_not_recorded(stage: Stage) -> None:
    run = take(stage)
    taking.take(run.plan.id)
    assert [made.action for made in of_run(run)] == ["run.start", "run.take"]
