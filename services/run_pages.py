"""Reading what the run pages show, and telling a double click from a second plan."""

from __future__ import annotations

from sqlalchemy import String, cast, func, select

from extensions import db
from models import Environment, MfaAttempt, Phase, Run, StateVersion, User
from policy.lifecycle import RunStatus
from policy.mfa import PhaseKind


def attempts(run: Run) -> dict[PhaseKind, list[MfaAttempt]]:
    """The attempts at both gates of a run, oldest first, in one query."""
    query = select(MfaAttempt, Phase.kind).join(Phase, Phase.id == MfaAttempt.phase_id)
    found: dict[PhaseKind, list[MfaAttempt]] = {kind: [] for kind in PhaseKind}
    for attempt, kind in db.session.execute(query.where(Phase.run_id == run.id).order_by(MfaAttempt.id)):
        found[kind].append(attempt)
    return found


def ahead(run: Run) -> int:
    """How many pending runs of the environment come before this one."""
    query = select(func.count()).where(
        Run.environment_id == run.environment_id, Run.status == RunStatus.PENDING, Run.number < run.number
    )
    return db.session.scalar(query) or 0


def state_of(run: Run) -> StateVersion | None:
    """The state that the run saved, if any."""
    query = select(StateVersion).where(StateVersion.run_id == run.id)
    return db.session.scalar(query.order_by(StateVersion.number.desc()).limit(1))


def has_summary(run: Run) -> bool:
    """Whether the attributes of the plan were read, without reading them (they can be large)."""
    length = func.length(cast(Run.summary, String))
    return (db.session.scalar(select(length).where(Run.id == run.id)) or 0) > len("null")


def counted(environment: Environment) -> tuple[int, int]:
    """How many runs the environment has, and how many of them wait for a person."""
    waiting = (
        RunStatus.AWAITING_PLAN_AUTHENTICATION,
        RunStatus.AWAITING_CONFIRMATION,
        RunStatus.AWAITING_APPLY_AUTHENTICATION,
    )
    # Runs are numbered from 1 and stay; to count them would be to read all of them.
    query = select(func.count()).where(Run.environment_id == environment.id, Run.status.in_(waiting))
    return environment.run_counter, db.session.scalar(query) or 0


def queued_since(environment: Environment, person: User, seen: int, digest: str) -> Run | None:
    """The person's newest run after number ``seen``, the newest one on the page that they sent the form from, if it is
    of the configuration with this ``digest``.

    One page queues one run of a configuration, so that a double click does not queue two. A run of another one is no
    first click: it was queued elsewhere. The environment's row is locked until the caller commits: of two clicks at
    once the second sees the run of the first.
    """
    db.session.execute(select(Environment.id).where(Environment.id == environment.id).with_for_update())
    query = select(Run).where(Run.environment_id == environment.id, Run.created_by_id == person.id, Run.number > seen)
    run = db.session.scalar(query.order_by(Run.number.desc()).limit(1))
    return run if run is not None and run.configuration.digest == digest else None


def reload(run: Run) -> None:
    """Read the run again after an action that came too late, so that its present status is shown."""
    db.session.rollback()
    db.session.refresh(run)
