"""Who holds an environment: a run, somebody's terminal, or a person by hand.

The first two exclude each other, by compare-and-set; the caller commits. A lock by hand lets what runs finish,
and nothing start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import update

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


@dataclass(frozen=True)
class Holder:
    """``name`` is the person's; ``what`` they do: "plan" or "apply" of a run, the operation and machine of a terminal,
    the reason of a lock by hand.
    """

    kind: HolderKind
    name: str
    since: datetime | None
    what: str
    run: Run | None = None

    @property
    def sentence(self) -> str:
        """Who and what, as in: run #12 by alice (apply)."""
        if self.run is not None:
            return f"run #{self.run.number} by {self.name} ({self.what})"
        if self.kind is HolderKind.TERMINAL:
            return f"a terminal of {self.name}" + (f" ({self.what})" if self.what else "")
        return f"{self.name}, who locked it by hand: {self.what}"


def hold(environment_id: int, run_id: int) -> bool:
    """Make ``run_id`` the environment's active run, unless another is, it is locked by hand, or a terminal has it."""
    statement = update(Environment).where(
        Environment.id == environment_id,
        Environment.active_run_id.is_(None),
        Environment.locked_by_id.is_(None),
        Environment.state_lock_id.is_(None),
    )
    return won(statement.values(active_run_id=run_id))


def release(environment_id: int, run_id: int) -> None:
    """The run no longer holds the environment."""
    statement = update(Environment).where(Environment.id == environment_id, Environment.active_run_id == run_id)
    db.session.execute(statement.values(active_run_id=None))


def holders(environment: Environment) -> list[Holder]:
    """Everything that holds the environment: a run or a terminal first, then a lock by hand."""
    found = []
    run = db.session.get(Run, environment.active_run_id) if environment.active_run_id is not None else None
    if run is not None:
        doing = "plan" if run.status in _PLANNING else "apply"
        since = run.plan.authenticated_at or run.plan.queued_at or run.created_at
        found.append(Holder(HolderKind.RUN, run.created_by.name, since, doing, run))
    if environment.state_lock_id is not None:
        found.append(terminal(environment))
    if (person := by_hand(environment)) is not None:
        found.append(person)
    return found


def by_hand(environment: Environment) -> Holder | None:
    """Who locked an environment by hand, if anybody did."""
    if environment.locked_by is None:
        return None
    return Holder(HolderKind.PERSON, environment.locked_by.name, environment.locked_at, environment.lock_reason)


def terminal(environment: Environment) -> Holder:
    """The terminal that has an environment's state."""
    name = environment.state_lock_by.name if environment.state_lock_by else "somebody"
    return Holder(HolderKind.TERMINAL, name, environment.state_lock_at, _operation(environment))


def holder(environment: Environment) -> Holder | None:
    """The first of :func:`holders`: what a run that waits, waits for."""
    return next(iter(holders(environment)), None)


def hindering(environment: Environment, user: User) -> Holder | None:
    """What keeps this person from writing the state: anything but their own lock by hand."""
    own = environment.locked_by_id == user.id
    return next((one for one in holders(environment) if not (own and one.kind is HolderKind.PERSON)), None)


def refuse_when_hindered(environment: Environment, user: User) -> None:
    """Raise :class:`Conflict` for what keeps this person from writing the state."""
    found = hindering(environment, user)
    if found is not None:
        raise Conflict(
            f"{environment.name} is held by {found.sentence}. Nothing was changed; try again when it is free."
        )


def _operation(environment: Environment) -> str:
    """As in: apply, on alice@laptop. Terraform's names of operations: "OperationTypeApply", "state-push"."""
    info = environment.state_lock_info or {}
    operation = str(info.get("Operation", "")).removeprefix("OperationType").lower()
    return ", on ".join(filter(None, (operation, str(info.get("Who", "")))))
