"""Runs: queueing, confirming, discarding, canceling, and every change of a run's status."""

from __future__ import annotations

import contextlib
from typing import Any

from sqlalchemy import exists, func, select, update

from extensions import db
from models import ConfigurationVersion, Environment, Membership, Organization, Phase, PhaseStatus, Run, User
from policy import lifecycle
from policy.lifecycle import CancelReason, Event, RunStatus, TransitionRefused, advance
from policy.mfa import PhaseKind
from policy.permissions import Permission
from services import audit, clock, holds, queue
from services.access import hold_membership, require
from services.compare_and_set import won
from services.errors import Conflict, Invalid, NotFound
from services.mfa import handoff
from services.storage import logs

#: What starts a phase by a person's hand: not while the environment is locked.
_STARTING = (Event.CONFIRM, Event.AUTHENTICATE)

_COLUMNS = [column.key for column in Run.__mapper__.column_attrs if column.key != "summary"]

MOVED_ON = "This run moved on just now. Nothing was changed; look at its present status."


def transition(run: Run, event: Event, **values: Any) -> RunStatus:
    """Move the run on by the table and a compare-and-set; the caller commits.

    ``values`` are further columns of the run. The environment's level that the gate was judged by must still be the
    present one, and what a person starts needs an environment that is not locked. A run that no longer holds its
    environment releases it. Raises :class:`Conflict` for the loser and where the table has no such transition.
    """
    while True:
        status = run.status
        try:
            new = advance(status, event, run.gate)
        except TransitionRefused as refused:
            raise Conflict(f"{refused} Nothing was changed.") from None
        ended = {"finished_at": clock.now()} if new.final else {}
        same = exists().where(Environment.id == run.environment_id, Environment.mfa_level == run.environment.mfa_level)
        if event in _STARTING:
            same = same.where(holds.unlocked())
        statement = update(Run).where(Run.id == run.id, Run.status == status, same)
        # What the session knows of the run is read again below.
        statement = statement.execution_options(synchronize_session=False)
        if won(statement.values(status=new, **(ended | values))):
            break
        db.session.refresh(run)
        db.session.refresh(run.environment)
        if run.status is not status:
            raise Conflict(MOVED_ON)
        if event in _STARTING:
            refuse_when_locked(run.environment)
        # Only the level was changed at this moment: judge again by the present one.
    db.session.refresh(run, _COLUMNS)
    if not new.holds_environment:
        holds.release(run.environment_id, run.id)
    return new


def create_run(
    membership: Membership,
    environment: Environment,
    configuration: ConfigurationVersion,
    message: str = "",
    *,
    token: str | None = None,
) -> Run:
    """Make a run of ``configuration``, commit, and start it when the environment is free.

    Under `plans and applies` it awaits authentication and nothing is queued. ``token`` is the name of the one that the
    person's script came with. Raises :class:`services.errors.Forbidden`, :class:`Invalid` for field "message", and
    :class:`NotFound` for somebody who is removed at this moment.
    """
    require(membership, Permission.WRITE, "You cannot queue plans here.", environment)
    hold_membership(environment.organization_id, membership.user_id)
    message = " ".join(message.split()) or configuration.message
    if len(message) > 200:
        raise Invalid("message", "At most 200 characters.")
    counter = update(Environment).where(Environment.id == environment.id)
    db.session.execute(counter.values(run_counter=Environment.run_counter + 1))
    number = db.session.scalars(select(Environment.run_counter).where(Environment.id == environment.id)).one()
    run = Run(
        environment_id=environment.id,
        environment=environment,
        number=number,
        status=RunStatus.PENDING,
        mfa_level=environment.mfa_level,
        configuration_id=configuration.id,
        message=message,
        terraform_directory=environment.terraform_directory,
        created_by_id=membership.user_id,
        created_at=clock.now(),
    )
    run.phases = [Phase(kind=PhaseKind.PLAN, actor_id=membership.user_id), Phase(kind=PhaseKind.APPLY)]
    db.session.add(run)
    db.session.flush()
    told: dict[str, Any] = {"level": run.mfa_level.value, "configuration": configuration.number}
    if token is not None:
        told["token"] = token
    audit.record("run.create", membership.user, run=run, **told)
    if not run.gate.open_for(PhaseKind.PLAN):
        _start(run)
    db.session.commit()
    start_pending(environment.id)
    db.session.refresh(run)
    return run


def start_pending(environment_id: int) -> None:
    """Start the oldest pending run when the environment is free; commits.

    Pending runs whose plan needs a code meanwhile move aside to await it; they do not hold the environment.
    """
    while True:
        query = select(Run).where(Run.environment_id == environment_id, Run.status == RunStatus.PENDING)
        run = db.session.scalar(query.order_by(Run.number).limit(1))
        if run is None:
            db.session.commit()
            return
        db.session.refresh(run.environment)
        held = run.gate.open_for(PhaseKind.PLAN)
        if held and not holds.hold(environment_id, run.id):
            db.session.commit()
            return
        try:
            new = _start(run)
        except Conflict:  # canceled at this moment: look again
            db.session.rollback()
            continue
        if new is RunStatus.PLAN_QUEUED and held:
            queue_phase(run, PhaseKind.PLAN)
            return
        if new is RunStatus.PLAN_QUEUED:  # the level was lowered at this moment: look again
            db.session.rollback()
        db.session.commit()


def start_all(environment_id: int) -> None:
    """The environment is unlocked: the workers get again what the lock kept queued, then what is pending; commits."""
    kept = select(Phase.id, Phase.queued_at).join(Run, Phase.run_id == Run.id)
    kept = kept.where(Run.environment_id == environment_id, Phase.status == PhaseStatus.QUEUED)
    found = db.session.execute(kept).all()
    db.session.commit()
    for row in found:
        queue.enqueue_phase(Phase(id=row.id, queued_at=row.queued_at))
    start_pending(environment_id)


def _start(run: Run) -> RunStatus:
    """The run begins, with its audit event: Lockstep does it, when the environment is free. The caller commits."""
    before = run.status
    new = transition(run, Event.START)
    audit.record("run.start", None, run=run, status=[before.words, new.words])
    return new


def queue_phase(run: Run, kind: PhaseKind, actor: User | None = None) -> None:
    """Mark the phase queued, commit, and hand it to the workers."""
    queued = mark_queued(run, kind, actor)
    db.session.commit()
    queue.enqueue_phase(queued)


def mark_queued(run: Run, kind: PhaseKind, actor: User | None = None) -> Phase:
    """Mark the phase queued, for ``actor`` if one is given; the caller commits and then enqueues what this answers.

    That is a copy which no session knows: to read the row again would begin a transaction, and on SQLite keep
    everybody waiting while Redis is asked.
    """
    values: dict[str, Any] = {"status": PhaseStatus.QUEUED, "queued_at": clock.now(), "gate_note": ""}
    if actor is not None:
        values["actor_id"] = actor.id
    phase_id = run.phase(kind).id
    db.session.execute(update(Phase).where(Phase.id == phase_id).values(**values))
    return Phase(id=phase_id, queued_at=values["queued_at"])


def confirm(membership: Membership, run: Run) -> RunStatus:
    """Confirm & Apply. Where the level was raised meanwhile the run awaits a code instead. Commits.

    Raises :class:`services.errors.Forbidden`, :class:`Conflict`.
    """
    require(membership, Permission.WRITE, "You cannot apply here.", run.environment)
    refuse_when_locked(run.environment)
    new = transition(run, Event.CONFIRM, confirmed_by_id=membership.user_id)
    if new is not RunStatus.APPLY_QUEUED:
        audit.record("run.gate_raised", membership.user, run=run)
        db.session.commit()
        return new
    audit.record("run.confirm", membership.user, run=run, plan=run.plan_digest)
    logs.say(run.apply.id, f"Confirmed by {membership.user.name}")
    queue_phase(run, PhaseKind.APPLY, membership.user)
    return new


def discard(membership: Membership, run: Run) -> None:
    """Discard a run that waits for a person; commits and starts the next. Raises as :func:`confirm`."""
    require(membership, Permission.WRITE, "You cannot discard runs here.", run.environment)
    transition(run, Event.DISCARD, ended_by_id=membership.user_id)
    audit.record("run.discard", membership.user, run=run)
    _over(run)


def cancel(membership: Membership, run: Run) -> None:
    """Cancel: at once before anything runs, else by one SIGINT that the worker sends. Commits."""
    require(membership, Permission.WRITE, "You cannot cancel runs here.", run.environment)
    if run.status in lifecycle.RUNNING:
        values = {
            "cancel_requested_at": clock.now(),
            "cancel_requested_by_id": membership.user_id,
            "cancel_reason": CancelReason.PERSON,
        }
        statement = update(Run).where(Run.id == run.id, Run.status == run.status, Run.cancel_requested_at.is_(None))
        if not won(statement.values(**values)):
            raise Conflict("A cancel is under way already, or the run has just ended. Nothing was changed.")
        audit.record("run.cancel_requested", membership.user, run=run)
        db.session.commit()
        return
    transition(run, Event.CANCEL, ended_by_id=membership.user_id)
    statement = update(Phase).where(Phase.run_id == run.id, Phase.status == PhaseStatus.QUEUED)
    db.session.execute(statement.values(status=PhaseStatus.CANCELED))
    audit.record("run.cancel", membership.user, run=run)
    _over(run)


def cancel_pending(person: User, organization: Organization, by: User, reason: str) -> int:
    """Cancel the pending runs of somebody who goes, which would begin by themselves; the caller commits.

    Answers how many there were. One that begins at this moment goes on.
    """
    here = Environment.organization_id == organization.id, Run.created_by_id == person.id
    pending = select(Run).join(Environment, Environment.id == Run.environment_id)
    canceled = 0
    for run in db.session.scalars(pending.where(*here, Run.status == RunStatus.PENDING).order_by(Run.id)).all():
        with contextlib.suppress(Conflict):
            transition(run, Event.CANCEL, ended_by_id=by.id)
            audit.record("run.cancel", by, run=run, reason=reason)
            canceled += 1
    return canceled


def _over(run: Run) -> None:
    """Commit the end of a run, drop its credentials, and start the next.

    One that waits has credentials, too, where a process was killed between sealing them and queueing the phase.
    """
    environment_id, phase_ids = run.environment_id, [phase.id for phase in run.phases]
    db.session.commit()
    for phase_id in phase_ids:  # no row is read meanwhile: on SQLite everybody would wait for Redis
        handoff.drop(phase_id)
    start_pending(environment_id)


def refuse_when_locked(environment: Environment) -> None:
    """Raise :class:`Conflict` while the environment is locked, or somebody's terminal has its state."""
    db.session.refresh(environment)
    if (lock := holds.lock(environment)) is not None:
        raise Conflict(
            f"{environment.name} is locked by {lock.name}: {lock.what}. "
            "Nothing was changed; try again when it is unlocked."
        )
    if environment.state_lock_id is not None and (held := holds.holder(environment)) is not None:
        raise Conflict(
            f"{environment.name} is held by {held.sentence}. Nothing was changed; try again when it lets go."
        )


def run_by_number(environment: Environment, number: int) -> Run:
    """A run of the environment. Raises :class:`NotFound`."""
    run = db.session.scalar(select(Run).where(Run.environment_id == environment.id, Run.number == number))
    if run is None:
        raise NotFound("No such run.")
    return run


def recent(environment: Environment, before: int | None = None, limit: int = 25) -> list[Run]:
    """Runs, newest first; ``before`` is a run number to page on from."""
    query = select(Run).where(Run.environment_id == environment.id)
    if before is not None:
        query = query.where(Run.number < before)
    return list(db.session.scalars(query.order_by(Run.number.desc()).limit(limit)))


def newest(environments: list[Environment]) -> dict[int, Run]:
    """The newest run of each environment, by environment id."""
    query = select(func.max(Run.id)).where(Run.environment_id.in_([e.id for e in environments]))
    runs = db.session.scalars(select(Run).where(Run.id.in_(query.group_by(Run.environment_id))))
    return {run.environment_id: run for run in runs}


def blocking(run: Run) -> Run | None:
    """The run that holds the environment while this one waits for it, if any."""
    active = run.environment.active_run_id
    return db.session.get(Run, active) if active is not None and active != run.id else None
