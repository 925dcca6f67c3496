"""Reading audit events: for an organization's owners, a page at a time or whole as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, or_, select

from extensions import db
from models import AuditEvent, Environment, Membership, Organization, Run, User
from policy.permissions import Permission
from services import audit, audit_chain, members
from services.access import require
from services.errors import Invalid
from services.storage.sqlite import read_only

#: How many events an export reads at a time.
_BATCH = 500
#: So many of the newest events say which names and actions a page offers.
_RECENT = 5000
#: Of people who went, so many are known, those who went last.
_MOST_GONE = 5000
#: A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")

COLUMNS = (
    "sequence", "at", "who", "action", "organization", "environment", "run", "details", "address", "request_id",
    "digest",
)  # fmt: skip


@dataclass(frozen=True)
class Filters:
    """What is looked for; "" for anything. ``action`` is one, or the thing before its dot; days are YYYY-MM-DD, UTC."""

    who: str = ""
    action: str = ""
    environment: str = ""
    first: str = ""
    last: str = ""


@dataclass(frozen=True)
class Choices:
    """What a page offers for the filters."""

    people: list[str]
    actions: list[str]
    environments: list[str]


def page(membership: Membership, filters: Filters, before: int | None, limit: int) -> list[AuditEvent]:
    """The newest events that match, those before place ``before`` when given.

    Raises :class:`Forbidden`, :class:`Invalid` for field "from" or "to".
    """
    _require(membership)
    query = select(AuditEvent).where(*_conditions(membership.organization, filters))
    if before is not None:
        query = query.where(AuditEvent.sequence < min(before, 1 << 62))
    return list(db.session.scalars(query.order_by(AuditEvent.sequence.desc()).limit(limit)))


def choices(membership: Membership) -> Choices:
    """The people, actions and environments to choose from."""
    _require(membership)
    query = select(AuditEvent.actor_name, AuditEvent.action).where(_of(membership.organization))
    recent = query.order_by(AuditEvent.sequence.desc()).limit(_RECENT).subquery()
    found = db.session.execute(select(recent.c.actor_name, recent.c.action).distinct()).all()
    names = select(User.name).where(User.id.in_(_members(membership.organization)))
    environments = select(Environment.name).where(Environment.organization_id == membership.organization_id)
    return Choices(
        sorted({*db.session.scalars(names), *(row.actor_name for row in found)}),
        sorted({row.action for row in found} | {row.action.partition(".")[0] for row in found}),
        sorted(db.session.scalars(environments)),
    )


def facts(organization: Organization, events: list[AuditEvent]) -> list[dict[str, Any]]:
    """Each event as :data:`COLUMNS`, with names and numbers instead of ids; times are ISO 8601, UTC."""
    environments = _names({made.environment_id for made in events})
    runs = _numbers({made.run_id for made in events})
    return [
        {
            "sequence": made.sequence,
            "at": made.at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "who": made.actor_name,
            "action": made.action,
            "organization": organization.name if made.organization_id else None,
            "environment": environments.get(made.environment_id),
            "run": runs.get(made.run_id),
            "details": made.details,
            "address": made.address,
            "request_id": made.request_id,
            "digest": made.digest,
        }
        for made in events
    ]


def export(membership: Membership, filters: Filters, kind: str) -> Iterator[str]:
    """The matching events as lines of CSV ("csv") or JSON ("jsonl"), oldest first. Taking them is an event, committed.

    It ends the session's transaction again and again, so that a slow reader holds none: for the answer to a request,
    after all else is done. Raises as :func:`page`.
    """
    _require(membership)
    organization = membership.organization
    conditions = _conditions(organization, filters)
    # A GET that writes: what was read so far ends here, so that SQLite begins a transaction that may write.
    db.session.rollback()
    read_only.set(False)
    asked = {name: value for name, value in asdict(filters).items() if value}
    audit.record("audit.export", membership.user, organization=organization, format=kind, filters=asked)
    db.session.commit()
    read_only.set(True)
    return _lines(organization.id, conditions, _csv if kind == "csv" else _json, kind == "csv")


def _lines(organization_id: int, conditions: list[ColumnElement[bool]], write: Any, headed: bool) -> Iterator[str]:
    if headed:
        yield _row(COLUMNS)
    after = 0
    while True:
        organization = db.session.get_one(Organization, organization_id)
        query = select(AuditEvent).where(*conditions, AuditEvent.sequence > after)
        events = list(db.session.scalars(query.order_by(AuditEvent.sequence).limit(_BATCH)))
        if not events:
            return
        after = events[-1].sequence or 0
        text = "".join(write(told) for told in facts(organization, events))
        db.session.rollback()
        yield text


def _csv(told: dict[str, Any]) -> str:
    plain = {**told, "details": json.dumps(told["details"], ensure_ascii=False, sort_keys=True)}
    return _row([_defused(plain[name]) for name in COLUMNS])


def _defused(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _row(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _json(told: dict[str, Any]) -> str:
    return json.dumps(told, sort_keys=True) + "\n"


def _require(membership: Membership) -> None:
    require(membership, Permission.SEE_AUDIT, "Only owners of the organization can see what everybody did.")


def _members(organization: Organization) -> Any:
    return select(Membership.user_id).where(Membership.organization_id == organization.id)


def _of(organization: Organization) -> ColumnElement[bool]:
    """The organization's events, and those outside of any that are by or about one of its members, or the chain.

    Of somebody who went, those until then: what they did with their sign-ins and tokens stays known.
    """
    names = select(User.name).where(User.id.in_(_members(organization)))
    about = AuditEvent.details["user"].as_string()
    personal = [
        AuditEvent.actor_id.in_(_members(organization)),
        about.in_(names),
        AuditEvent.action.in_((audit_chain.BEGUN, audit_chain.TAKEN_OVER)),
    ]
    if gone := _gone(organization):
        personal += [AuditEvent.sequence < case(gone, value=name, else_=0) for name in (AuditEvent.actor_name, about)]
    outside = and_(AuditEvent.organization_id.is_(None), or_(*personal))
    return or_(AuditEvent.organization_id == organization.id, outside)


def _gone(organization: Organization) -> dict[str, int]:
    """The names of those who left or were removed, each with the place of the newest event that says so."""
    query = select(AuditEvent.details["user"].as_string(), AuditEvent.sequence).where(
        AuditEvent.organization_id == organization.id,
        AuditEvent.action.in_(members.GOING),
        AuditEvent.sequence.is_not(None),
    )
    # No more than a database takes parameters for.
    newest = db.session.execute(query.order_by(AuditEvent.sequence.desc()).limit(_MOST_GONE)).all()
    return {name: last or 0 for name, last in reversed(newest)}


def _conditions(organization: Organization, filters: Filters) -> list[ColumnElement[bool]]:
    found = [_of(organization), AuditEvent.sequence.is_not(None)]
    if filters.who:
        # A refused sign-in is nobody's doing, but it is about somebody.
        about = AuditEvent.details["user"].as_string() == filters.who
        found.append(or_(AuditEvent.actor_name == filters.who, about))
    if filters.action:
        things = AuditEvent.action.startswith(f"{filters.action}.", autoescape=True)
        found.append(or_(AuditEvent.action == filters.action, things))
    if filters.environment:
        named = select(Environment.id).where(
            Environment.organization_id == organization.id, Environment.name == filters.environment
        )
        environment = db.session.scalar(named)
        found.append(false() if environment is None else AuditEvent.environment_id == environment)
    if filters.first:
        found.append(AuditEvent.at >= _day("from", filters.first))
    if filters.last:
        found.append(AuditEvent.at < _day("to", filters.last) + timedelta(days=1))
    return found


def _day(field: str, text: str) -> datetime:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  (a day, made UTC below)
    except ValueError:
        day = None
    if day is None or not 2000 <= day.year < 2200:
        raise Invalid(field, "A day is written YYYY-MM-DD, such as 2026-03-31.")
    return datetime.combine(day, time(), UTC)


def _names(ids: set[int | None]) -> dict[int | None, str]:
    query = select(Environment.id, Environment.name).where(Environment.id.in_(ids - {None}))
    return {row.id: row.name for row in db.session.execute(query)}


def _numbers(ids: set[int | None]) -> dict[int | None, int]:
    query = select(Run.id, Run.number).where(Run.id.in_(ids - {None}))
    return {row.id: row.number for row in db.session.execute(query)}
