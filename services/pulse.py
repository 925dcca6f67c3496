"""Whether anything changed on the page of a run, for the polls of everybody who looks at it.

Who asks, and whether they may see the run, is asked at every poll. What is the same for all of them is read for the
first one, and shared by those who ask within a moment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, String, and_, bindparam, case, cast, func, literal, or_, select
from sqlalchemy.orm import aliased

from extensions import db
from models import (
    Environment,
    Membership,
    MfaAttempt,
    Organization,
    Phase,
    PhaseStatus,
    Run,
    SignIn,
    StateVersion,
    User,
    Variable,
)
from policy.lifecycle import GIVE_UP_AFTER, LEASE, RUNNING, RunStatus
from policy.mfa import PhaseKind
from policy.permissions import Role
from services import access, clock, sign_ins
from services.shared import Shared

#: Columns that change all the time and show nowhere but in the log itself.
_LOG = {"log_size", "log_lines", "spool_offset", "log_packed_at", "heartbeat_at", "worker"}

_WAITING = (RunStatus.AWAITING_PLAN_AUTHENTICATION, RunStatus.AWAITING_APPLY_AUTHENTICATION)

#: So long after a plan its attributes may still come.
_ATTRIBUTES = timedelta(minutes=6)


@dataclass(frozen=True, slots=True)
class Log:
    """How far the log of a phase is, in bytes and lines. ``born`` tells phases of different databases apart."""

    phase_id: int
    kind: PhaseKind
    size: int
    lines: int
    removed: bool
    born: datetime


@dataclass(frozen=True, slots=True)
class Pulse:
    """``stamp`` differs whenever a part of the page may differ, for this person; the logs are apart."""

    stamp: str
    logs: dict[PhaseKind, Log]
    status: RunStatus


@dataclass(frozen=True, slots=True)
class _Run:
    """The part of a pulse that is the same for everybody: ``told`` differs whenever a part of the page may differ."""

    told: str
    logs: dict[PhaseKind, Log]
    status: RunStatus


#: For so long, in seconds, a glance may not see what changed.
shared: Shared[_Run] = Shared(64, 0.1)


class Asked(NamedTuple):
    """Who asks for which run. ``token`` is the secret of the session (services/sign_ins.py)."""

    user_id: int
    epoch: int
    token: str
    organization: str
    environment: str
    number: int


def look(asked: Asked) -> Pulse | None:
    """The run as this person may see it now; None when the session ended, or there is no such run for them."""
    connection = db.session.connection()
    run = _viewed(connection, asked)
    return _pulse(run, _run(connection, run.id)) if run is not None else None


def glance(asked: Asked) -> Pulse | None:
    """As :func:`look`; but what does not concern the person may be what others saw a moment ago.

    It may also be younger than the transaction of this session, which is left alone: no page is made from it.
    """
    with db.engine.connect() as connection:
        run = _viewed(connection, asked)
        if run is None:
            return None
        # The moment tells runs of different databases apart.
        return _pulse(run, shared.get((run.id, run.created_at), lambda: _run(connection, run.id)))


def _viewed(connection: Connection, asked: Asked) -> Row[int, datetime, Role, int] | None:
    return connection.execute(
        _viewer(), {"user": asked.user_id, "epoch": asked.epoch, "session": sign_ins.digest(asked.token),
                    "idle": clock.now() - sign_ins.IDLE, "organization": asked.organization,
                    "environment": asked.environment, "number": asked.number},
    ).one_or_none()  # fmt: skip


def _pulse(viewed: Row[int, datetime, Role, int], run: _Run) -> Pulse:
    stamp = hashlib.blake2s(f"{run.told} {viewed.role} {viewed.access}".encode(), digest_size=9).hexdigest()
    return Pulse(stamp, run.logs, run.status)


def _run(connection: Connection, run_id: int) -> _Run:
    row = connection.execute(_query(), {"run": run_id, "lately": clock.now() - _ATTRIBUTES}).one()
    found = row._mapping
    logs = {
        kind: Log(
            found[f"{kind}_id"],
            kind,
            found[f"{kind}_log_size"],
            found[f"{kind}_log_lines"],
            found[f"{kind}_log_removed_at"] is not None,
            found["run_created_at"],
        )
        for kind in PhaseKind
    }
    return _Run(_told(row), logs, found["run_status"])


def _told(row: Row[Any]) -> str:
    told = [value for name, value in row._mapping.items() if name.partition("_")[2] not in _LOG]
    return hashlib.blake2s(repr((told, _ages(row))).encode(), digest_size=9).hexdigest()


def _ages(row: Row[Any]) -> list[object]:
    """What on the page changes by time alone."""
    found, now = row._mapping, clock.now()
    ages: list[object] = []
    running = found["run_status"] in RUNNING
    for kind in PhaseKind:
        until, beat = found[f"{kind}_session_expires_at"], found[f"{kind}_heartbeat_at"]
        live = found[f"{kind}_status"] in (PhaseStatus.QUEUED, PhaseStatus.RUNNING)
        ages.append(int((until - now).total_seconds()) // 60 if until and live else None)
        ages.append(running and beat is None)
        lost = running and beat is not None and now - beat > LEASE
        # Whether another worker is free to take over changes meanwhile.
        ages.append(int((now - beat).total_seconds()) // 10 if lost else None)
        ages.append(running and beat is not None and now - beat > GIVE_UP_AFTER)
        # Who holds the phase matters to the page only when it changes hands after a silence.
        ages.append(found[f"{kind}_worker"] if found[f"{kind}_status"] is PhaseStatus.RUNNING else None)
        queued = found[f"{kind}_queued_at"]
        if found[f"{kind}_status"] is PhaseStatus.QUEUED and queued is not None:
            ages.append(int((now - queued).total_seconds()) // 10)  # after a while the page says why it waits
    asked = found["run_cancel_requested_at"]
    if asked is not None and found["run_status"] in RUNNING:
        ages.append(int((now - asked).total_seconds()) // 5)  # an owner may force it after a while
    return ages


@cache
def _viewer() -> Select[int, datetime, Role, int]:
    """The run of an address, with what the person may do there; no row for who may not see it."""
    return (
        select(Run.id, Run.created_at, Membership.role, access.rank(User.id, Environment.id).label("access"))
        .select_from(User)
        .join(Membership, Membership.user_id == User.id)
        .join(SignIn, SignIn.user_id == User.id)
        .join(Organization, Organization.id == Membership.organization_id)
        .join(Environment, Environment.organization_id == Organization.id)
        .join(Run, Run.environment_id == Environment.id)
        .where(
            User.id == bindparam("user"),
            User.session_epoch == bindparam("epoch"),
            Organization.name == bindparam("organization"),
            SignIn.digest == bindparam("session"),
            SignIn.ended_at.is_(None),
            SignIn.seen_at > bindparam("idle"),
            or_(User.totp_at.is_not(None), Organization.second_factor_required.is_(False)),
            Environment.name == bindparam("environment"),
            Run.number == bindparam("number"),
            access.visible(),
        )
    )


@cache
def _query() -> Select[Any]:
    plan, apply = aliased(Phase, name="plan"), aliased(Phase, name="apply")
    columns = [Run.__table__.c[name].label(f"run_{name}") for name in _names(Run, {"summary"})]
    for name, phase in (("plan", plan), ("apply", apply)):
        columns += [getattr(phase, column).label(f"{name}_{column}") for column in _names(Phase, set())]
    told = {"mfa_level", "session_seconds", "active_run_id", "locked_by_id", "locked_at", "lock_reason"}
    told |= {"unkept_run_id", "state_lock_id", "state_lock_by_id", "name"}
    columns += [Environment.__table__.c[name].label(f"environment_{name}") for name in sorted(told)]
    attempts = select(func.max(MfaAttempt.id)).where(
        or_(MfaAttempt.phase_id == plan.id, MfaAttempt.phase_id == apply.id)
    )
    state = select(func.max(StateVersion.id)).where(StateVersion.run_id == Run.id)
    other = aliased(Run, name="other")
    ahead = select(func.count(other.id)).where(
        other.environment_id == Run.environment_id, other.status == RunStatus.PENDING, other.number < Run.number
    )
    changed = [
        select(column).where(Variable.organization_id == Environment.organization_id)
        for column in (func.count(Variable.id), func.max(Variable.id), func.max(Variable.updated_at))
    ]
    waits = Run.status.in_(_WAITING)
    columns += [
        attempts.scalar_subquery().label("attempts"),
        state.scalar_subquery().label("state"),
        case((Run.status == RunStatus.PENDING, ahead.scalar_subquery()), else_=literal(0)).label("ahead"),
        # Long ones are read only while they may still come.
        case((plan.finished_at > bindparam("lately"), func.length(cast(Run.summary, String))), else_=0).label(
            "summary"
        ),
        *(case((waits, query.scalar_subquery())).label(f"variables{n}") for n, query in enumerate(changed)),
    ]
    return (
        select(*columns)
        .select_from(Run)
        .join(Environment, Environment.id == Run.environment_id)
        .join(plan, and_(plan.run_id == Run.id, plan.kind == PhaseKind.PLAN))
        .join(apply, and_(apply.run_id == Run.id, apply.kind == PhaseKind.APPLY))
        .where(Run.id == bindparam("run"))
    )


def _names(model: Any, without: set[str]) -> list[str]:
    return [column.name for column in model.__table__.columns if column.name not in without]
