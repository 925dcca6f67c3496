"""Runs in the queue of their environment: one at a time, in order, each change by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy.orm.attributes import set_committed_value

from extensions import db
from models import AuditEvent, ConfigurationVersion, Environment, Membership, Phase, PhaseStatus, Run
from policy.lifecycle import Event, RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Access
from services import environments, queue, runs
from services.environments import Settings
from services.errors import Conflict, Forbidden, Invalid, NotFound
from services.mfa import handoff
from tests import factories
from tests.support import lab

S = RunStatus


@pytest.fixture
def environment(here: Flask) -> Environment:
    return factories.environment()


def to(run: Run, status: RunStatus) -> Run:
    """The run as it is in ``status``; it holds the environment already."""
    run.status = status
    if run.plan.status is PhaseStatus.QUEUED:
        run.plan.status = PhaseStatus.FINISHED
    db.session.commit()
    return run


def statuses(*of: Run) -> list[RunStatus]:
    return [lab.status(run) for run in of]


def set_level(environment: Environment, level: MfaLevel, by: str = "alice") -> None:
    environments.save_settings(factories.member(by), environment, Settings(level, 3600, "", ""))


# -- one active run ----------------------------------------------------------------------------------------------------


def test_one_run_is_active_and_the_others_wait_in_order(environment: Environment) -> None:
    first, second, third = (lab.new_run(environment) for _ in range(3))
    assert [run.number for run in (first, second, third)] == [1, 2, 3]
    assert statuses(first, second, third) == [S.PLAN_QUEUED, S.PENDING, S.PENDING]
    assert environment.active_run_id == first.id
    assert runs.blocking(second) == first
    assert runs.blocking(first) is None
    assert [arguments for _, arguments in lab.queued_jobs()] == [[first.plan.id]]
    runs.start_pending(environment.id)
    assert statuses(first, second, third) == [S.PLAN_QUEUED, S.PENDING, S.PENDING]


def test_environments_do_not_wait_for_each_other(environment: Environment) -> None:
    other = lab.new_run(factories.environment("second"))
    assert statuses(lab.new_run(environment), other) == [S.PLAN_QUEUED, S.PLAN_QUEUED]


def test_a_run_that_awaits_plan_authentication_does_not_hold(environment: Environment) -> None:
    set_level(environment, MfaLevel.PLANS_AND_APPLIES)
    waiting = lab.new_run(environment)
    assert lab.status(waiting) is S.AWAITING_PLAN_AUTHENTICATION
    assert environment.active_run_id is None
    assert lab.queued_jobs() == []
    set_level(environment, MfaLevel.NEVER)
    free = lab.new_run(environment)
    assert statuses(waiting, free) == [S.AWAITING_PLAN_AUTHENTICATION, S.PLAN_QUEUED]


@pytest.mark.parametrize(
    "status", [S.PLAN_QUEUED, S.PLANNING, S.AWAITING_CONFIRMATION, S.AWAITING_APPLY_AUTHENTICATION, S.APPLY_QUEUED,
               S.APPLYING]
)  # fmt: skip
def test_every_later_status_holds(environment: Environment, status: RunStatus) -> None:
    to(lab.new_run(environment), status)
    assert lab.status(lab.new_run(environment)) is S.PENDING


def by_alice(act: Callable[..., object]) -> Callable[[Run], object]:
    return lambda run: act(factories.member(), run)


def event(name: Event) -> Callable[[Run], object]:
    """What the worker does at the end of a phase."""

    def end(run: Run) -> None:
        runs.transition(run, name)
        db.session.commit()
        runs.start_pending(run.environment_id)

    return end


@pytest.mark.parametrize(
    ("status", "end", "becomes"),
    [
        (S.AWAITING_CONFIRMATION, by_alice(runs.discard), S.DISCARDED),
        (S.AWAITING_APPLY_AUTHENTICATION, by_alice(runs.discard), S.DISCARDED),
        (S.PLAN_QUEUED, by_alice(runs.cancel), S.CANCELED),
        (S.AWAITING_CONFIRMATION, by_alice(runs.cancel), S.CANCELED),
        (S.APPLY_QUEUED, by_alice(runs.cancel), S.CANCELED),
        (S.PLANNING, event(Event.FINISH_UNCHANGED), S.PLANNED_AND_FINISHED),
        (S.PLANNING, event(Event.FAIL), S.ERRORED),
        (S.PLANNING, event(Event.STOPPED), S.CANCELED),
        (S.APPLYING, event(Event.FINISH_APPLY), S.APPLIED),
        (S.APPLYING, event(Event.FAIL), S.ERRORED),
        (S.PLAN_QUEUED, event(Event.GATE_CLOSED), S.AWAITING_PLAN_AUTHENTICATION),
    ],
)
def test_every_end_starts_the_next(
    environment: Environment, status: RunStatus, end: Callable[[Run], object], becomes: RunStatus
) -> None:
    run, second, third = (lab.new_run(environment) for _ in range(3))
    to(run, status)
    end(run)
    assert statuses(run, second, third) == [becomes, S.PLAN_QUEUED, S.PENDING]
    assert environment.active_run_id == second.id
    assert (run.finished_at is not None) == becomes.final
    assert [second.plan.id] in [arguments for _, arguments in lab.queued_jobs()]


def test_a_pending_run_can_be_canceled_and_is_passed_over(environment: Environment) -> None:
    first, second, third = (lab.new_run(environment) for _ in range(3))
    runs.cancel(factories.member("bob"), second)
    assert environment.active_run_id == first.id
    runs.cancel(factories.member("bob"), first)
    assert statuses(first, second, third) == [S.CANCELED, S.CANCELED, S.PLAN_QUEUED]
    assert first.ended_by is not None and first.ended_by.name == "bob"
    assert first.plan.status is PhaseStatus.CANCELED


@pytest.mark.parametrize("end", [runs.discard, runs.cancel])
def test_a_run_that_ends_leaves_no_credentials_and_waits_for_redis_without_a_transaction(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, end: Callable[[Membership, Run], None]
) -> None:
    run = to(lab.new_run(environment), S.AWAITING_APPLY_AUTHENTICATION)
    # As a web process leaves them that is killed between sealing them and queueing the phase.
    queue.connection().set(f"lockstep:handoff:{run.apply.id}", b"sealed")
    drop, open_then = handoff.drop, []

    def looking(phase_id: int) -> None:
        open_then.append(db.session().in_transaction())
        drop(phase_id)

    monkeypatch.setattr(handoff, "drop", looking)
    end(factories.member("bob"), run)
    assert queue.connection().keys("lockstep:handoff:*") == []
    assert open_then == [False, False]


def test_pending_runs_whose_plan_needs_a_code_meanwhile_move_aside(environment: Environment) -> None:
    first, second = lab.new_run(environment), lab.new_run(environment)
    set_level(environment, MfaLevel.PLANS_AND_APPLIES)
    assert lab.status(second) is S.PENDING
    third = lab.new_run(environment)
    runs.cancel(factories.member(), first)
    assert statuses(second, third) == [S.AWAITING_PLAN_AUTHENTICATION] * 2
    assert environment.active_run_id is None
    # Lowered again, the second keeps the present level's freedom only where its own level allows it.
    set_level(environment, MfaLevel.NEVER)
    assert second.mfa_level is MfaLevel.NEVER
    assert statuses(second, third) == [S.AWAITING_PLAN_AUTHENTICATION] * 2


# -- the level ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [MfaLevel.APPLIES_ONLY, MfaLevel.PLANS_AND_APPLIES])
def test_a_raised_level_reaches_a_run_that_awaits_confirmation(environment: Environment, level: MfaLevel) -> None:
    run = to(lab.new_run(environment), S.AWAITING_CONFIRMATION)
    set_level(environment, level)
    assert lab.status(run) is S.AWAITING_APPLY_AUTHENTICATION
    assert environment.active_run_id == run.id
    with pytest.raises(Conflict):
        runs.confirm(factories.member(), run)
    set_level(environment, MfaLevel.NEVER)
    assert lab.status(run) is S.AWAITING_APPLY_AUTHENTICATION, "a lowered level frees nobody"
    with pytest.raises(Conflict):
        runs.confirm(factories.member(), run)


def test_a_run_keeps_the_level_it_was_made_with(environment: Environment) -> None:
    set_level(environment, MfaLevel.APPLIES_ONLY)
    run = to(lab.new_run(environment), S.PLANNING)
    set_level(environment, MfaLevel.NEVER)
    assert run.mfa_level is MfaLevel.APPLIES_ONLY
    assert run.level is MfaLevel.APPLIES_ONLY
    assert runs.transition(run, Event.FINISH_PLAN) is S.AWAITING_APPLY_AUTHENTICATION


def test_a_level_raised_after_the_confirmation_stops_the_queued_apply(environment: Environment) -> None:
    run = to(lab.new_run(environment), S.AWAITING_CONFIRMATION)
    assert runs.confirm(factories.member(), run) is S.APPLY_QUEUED
    set_level(environment, MfaLevel.APPLIES_ONLY)
    with pytest.raises(Conflict, match=r"The apply needs a code from an AWS MFA device first"):
        runs.transition(run, Event.TAKE)


def test_a_confirmation_that_read_the_old_level_is_judged_by_the_new_one(environment: Environment) -> None:
    """As when the level is raised between the reading of the run and its update."""
    run = to(lab.new_run(environment), S.AWAITING_CONFIRMATION)
    environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.flush()
    set_committed_value(environment, "mfa_level", MfaLevel.NEVER)
    assert runs.transition(run, Event.CONFIRM) is S.AWAITING_APPLY_AUTHENTICATION
    assert run.apply.status is PhaseStatus.WAITING


def test_only_owners_change_the_level(environment: Environment) -> None:
    before = environment.mfa_level
    for access, sentence in ((Access.WRITE, "Only admins"), (Access.ADMIN, "Only owners")):
        factories.grant(environment, "bob", access)
        with pytest.raises(Forbidden, match=sentence):
            set_level(environment, MfaLevel.APPLIES_ONLY, by="bob")
        db.session.rollback()
    assert environment.mfa_level is before
    set_level(environment, MfaLevel.APPLIES_ONLY)
    saved = db.session.query(AuditEvent).filter_by(action="environment.settings").one()
    assert (saved.actor_name, saved.details) == ("alice", {"changed": {"mfa_level": ["never", "applies only"]}})
    for seconds in (899, 129_601):
        with pytest.raises(Invalid, match=r"A session lasts from 15 minutes to 36 hours"):
            environments.save_settings(factories.member(), environment, Settings(MfaLevel.NEVER, seconds, "", ""))
        db.session.rollback()


# -- permissions, locks ------------------------------------------------------------------------------------------------


def test_members_act_on_runs_and_readers_do_not(environment: Environment) -> None:
    run = to(lab.new_run(environment, by="bob"), S.AWAITING_CONFIRMATION)
    configuration = run.configuration
    bob = factories.member("bob")
    for access, refusal in ((Access.READ, Forbidden), (None, NotFound)):
        factories.grant(environment, "bob", access)
        for act in (runs.confirm, runs.discard, runs.cancel):
            with pytest.raises(refusal):
                act(bob, run)
        with pytest.raises(refusal):
            runs.create_run(bob, environment, configuration)
        with pytest.raises(refusal):
            environments.lock(bob, environment, "because")
    factories.grant(environment, "bob", Access.WRITE)
    assert lab.status(run) is S.AWAITING_CONFIRMATION
    assert runs.confirm(factories.member("bob"), run) is S.APPLY_QUEUED


def test_a_manual_lock_stops_new_plans_and_applies(environment: Environment) -> None:
    run = to(lab.new_run(environment), S.AWAITING_CONFIRMATION)
    environments.lock(factories.member("bob"), environment, "moving the network")
    with pytest.raises(Conflict, match=r"network is locked by bob: moving the network\. Nothing was changed"):
        runs.confirm(factories.member(), run)
    with pytest.raises(Conflict, match=r"Somebody locked"):
        environments.lock(factories.member(), environment, "me too")
    db.session.rollback()
    runs.discard(factories.member(), run)
    pending = lab.new_run(environment)
    assert lab.status(pending) is S.PENDING
    mark = str(environment.lock_mark)
    environments.unlock(factories.member(), environment, mark)
    assert lab.status(pending) is S.PLAN_QUEUED
    with pytest.raises(Conflict, match=r"not locked"):
        environments.unlock(factories.member(), environment, mark)


def test_a_run_of_another_environment_is_not_found(environment: Environment) -> None:
    lab.new_run(environment)
    with pytest.raises(NotFound):
        runs.run_by_number(factories.environment("second"), 1)


def test_a_message_has_its_limit(environment: Environment) -> None:
    with pytest.raises(Invalid, match=r"200"):
        lab.new_run(environment, message="x" * 201)
    db.session.rollback()
    assert lab.new_run(environment, message="  two \n words ").message == "two words"
    assert lab.new_run(environment).message.startswith("Configuration v")


# -- at the same time --------------------------------------------------------------------------------------------------


def race(app: Flask, *calls: Callable[[], object]) -> list[BaseException | None]:
    """Run the calls at once, each with its own context; their exceptions."""
    db.session.commit()
    crowd = [lab.Beside(app, call) for call in calls]
    errors: list[BaseException | None] = []
    for one in crowd:
        try:
            one.result()
            errors.append(None)
        except Conflict as error:
            errors.append(error)
    return errors


def test_of_confirm_discard_and_cancel_at_once_one_wins(here: Flask, environment: Environment) -> None:
    run = to(lab.new_run(environment), S.AWAITING_CONFIRMATION)
    run_id = run.id

    def act(name: str, by: str) -> Callable[[], object]:
        return lambda: getattr(runs, name)(factories.member(by), db.session.get_one(Run, run_id))

    errors = race(here, act("confirm", "alice"), act("discard", "bob"), act("discard", "alice"))
    after = lab.status(run)
    # A confirmation is undone by no discard; a cancel of the queued apply would be another matter.
    assert errors.count(None) == 1
    assert after in (S.APPLY_QUEUED, S.DISCARDED)
    assert (errors[0] is None) == (after is S.APPLY_QUEUED)
    assert len([job for job in lab.queued_jobs() if job[1] == [run.apply.id]]) == (after is S.APPLY_QUEUED)


def test_the_loser_of_a_stale_page_changes_nothing(environment: Environment) -> None:
    run = to(lab.new_run(environment), S.AWAITING_CONFIRMATION)
    # The row has moved on since it was read.
    db.session.execute(
        db.update(Run).where(Run.id == run.id).values(status=S.DISCARDED),
        execution_options={"synchronize_session": False},
    )
    with pytest.raises(Conflict, match=r"This run moved on just now"):
        runs.transition(run, Event.CONFIRM)
    assert lab.status(run) is S.DISCARDED


def test_many_starts_at_once_start_one_run(here: Flask, environment: Environment) -> None:
    first = lab.new_run(environment)
    waiting = [lab.new_run(environment) for _ in range(3)]
    runs.transition(first, Event.CANCEL)
    environment_id = environment.id
    assert race(here, *[lambda: runs.start_pending(environment_id)] * 5) == [None] * 5
    assert statuses(*waiting) == [S.PLAN_QUEUED, S.PENDING, S.PENDING]
    assert db.session.query(Phase).filter_by(status=PhaseStatus.QUEUED).count() == 2  # the canceled one's, too


def test_runs_queued_at_once_have_numbers_of_their_own(here: Flask, environment: Environment) -> None:
    configuration_id = factories.configuration(environment).id
    environment_id = environment.id

    def queue_one() -> None:
        version = db.session.get_one(ConfigurationVersion, configuration_id)
        runs.create_run(factories.member(), db.session.get_one(Environment, environment_id), version)

    assert race(here, *[queue_one] * 4) == [None] * 4
    made = db.session.query(Run).order_by(Run.number).all()
    assert [run.number for run in made] == [1, 2, 3, 4]
    assert [run.status for run in made].count(S.PLAN_QUEUED) == 1
