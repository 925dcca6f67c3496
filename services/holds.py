"""Who holds an environment: a run, somebody's terminal, a state that is missing, or a person by hand.

The first two exclude each other, by compare-and-set; the caller commits. The others are locks: they let what
runs finish, and nothing start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, update

from extensions import db
from models import Environment, Run, User
from policy.lifecycle import RunStatus
from services.compare_and_set import won
from services.errors import Conflict

_PLANNING = (RunStatus.PLAN_QUEUED, RunStatus.PLANNING)


class HolderKind(StrEnum):
    """What holds an environment."""

    RUN = "run"
    TERMINAL = "terminal"
    PERSON = "person"
    STATE = "state"


@dataclass(frozen=True)
class Holder:
    """``name`` is the person's; ``what`` they do: "plan" or "apply" of a run, the operation and machine of a terminal,
    the reason of a lock. ``run`` is the one that holds it, or whose state is missing.
    """

    kind: HolderKind
    name: str
    since: datetime | None
    what: str
    run: Run | None = None

    @property
    def sentence(self) -> str:
        """Who and what, as in: run #12 by alice (apply)."""
        if self.kind is HolderKind.STATE:
            return f"{self.name}: {self.what}"
        if self.run is not None:
            return f"run #{self.run.number} by {self.name} ({self.what})"
        if self.kind is HolderKind.TERMINAL:
            return f"a terminal of {self.name}" + (f" ({self.what})" if self.what else "")
        return f"{self.name}, who locked it by hand: {self.what}"


def hold(environment_id: int, run_id: int) -> bool:
    """Make ``run_id`` the environment's active run, unless another is, it is locked, or a terminal has it."""
    statement = update(Environment).where(
        Environment.id == environment_id,
        Environment.active_run_id.is_(None),
        unlocked(),
        Environment.state_lock_id.is_(None),
    )
    return won(statement.values(active_run_id=run_id))


def unlocked() -> ColumnElement[bool]:
    """In SQL: nobody locked the environment by hand, and no state is missing."""
    return and_(Environment.locked_by_id.is_(None), Environment.unkept_run_id.is_(None))


def release(environment_id: int, run_id: int) -> None:
    """The run no longer holds the environment."""
    statement = update(Environment).where(Environment.id == environment_id, Environment.active_run_id == run_id)
    db.session.execute(statement.values(active_run_id=None))


def holders(environment: Environment) -> list[Holder]:
    """Everything that holds the environment: a run or a terminal first, then locks."""
    found = []
    run = db.session.get(Run, environment.active_run_id) if environment.active_run_id is not None else None
    if run is not None:
        doing = "plan" if run.status in _PLANNING else "apply"
        since = run.plan.authenticated_at or run.plan.queued_at or run.created_at
        found.append(Holder(HolderKind.RUN, run.created_by.name, since, doing, run))
    if environment.state_lock_id is not None:
        found.append(terminal(environment))
    return found + _locks(environment)


def lock(environment: Environment) -> Holder | None:
    """What locks an environment, if anything does."""
    return next(iter(_locks(environment)), None)


def _locks(environment: Environment) -> list[Holder]:
    found = []
    run = db.session.get(Run, environment.unkept_run_id) if environment.unkept_run_id is not None else None
    if run is not None:
        what = f"run #{run.number} left its newest state on the worker’s machine"
        found.append(Holder(HolderKind.STATE, "Lockstep", run.finished_at, what, run))
    if environment.locked_by is not None:
        by, reason = environment.locked_by.name, environment.lock_reason
        found.append(Holder(HolderKind.PERSON, by, environment.locked_at, reason))
    return found


def terminal(environment: Environment) -> Holder:
    """The terminal that has an environment's state."""
    name = environment.state_lock_by.name if environment.state_lock_by else "somebody"
    return Holder(HolderKind.TERMINAL, name, environment.state_lock_at, _operation(environment))


def holder(environment: Environment) -> Holder | None:
    """The first of :func:`holders`: what a run that waits, waits for."""
    return next(iter(holders(environment)), None)


def hindering(environment: Environment, user: User, *, upload: bool = False) -> Holder | None:
    """What keeps this person from writing the state: anything but their own lock by hand.

    An ``upload`` is how a state that is missing comes in, so that does not hinder it.
    """
    passed = {HolderKind.PERSON} if environment.locked_by_id == user.id else set()
    passed |= {HolderKind.STATE} if upload else set()
    return next((one for one in holders(environment) if one.kind not in passed), None)


def refuse_when_hindered(environment: Environment, user: User, *, upload: bool = False) -> None:
    """Raise :class:`Conflict` for what keeps this person from writing the state."""
    found = hindering(environment, user, upload=upload)
    if found is not None:
        raise Conflict(
            f"{environment.name} is held by {found.sentence}. Nothing was changed; try again when it is free."
        )


def _operation(environment: Environment) -> str:
    """As in: apply, on alice@laptop. Terraform's names of operations: "OperationTypeApply", "state-push"."""
    info = environment.state_lock_info or {}
    operation = str(info.get("Operation", "")).removeprefix("OperationType").lower()
    return ", on ".join(filter(None, (operation, str(info.get("Who", "")))))
