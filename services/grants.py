"""Who has access to an environment: grants of teams and of single people. Owners have all of it without one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from extensions import db
from models import Environment, Grant, Membership, Team, User
from policy.permissions import Access, Permission, Role
from services import access, audit, members, teams
from services.access import require
from services.compare_and_set import won
from services.errors import Conflict, Invalid, NotFound

_ONLY_ADMINS = "Only admins of this environment can change who has access to it."
_MOVED_ON = "Somebody changed that access just now. Nothing was changed; look at what it is now."


def of(environment: Environment) -> list[Grant]:
    """Teams by name, then people by name."""
    found = db.session.scalars(select(Grant).where(Grant.environment_id == environment.id))
    return sorted(found, key=lambda grant: (grant.team is None, holder(grant)))


def holder(grant: Grant) -> str:
    """The name of the team or the person."""
    return grant.team.name if grant.team else grant.user.name if grant.user else ""


def mark(grant: Grant) -> str:
    """Whose it is, as forms send it: "team:NAME" or "person:NAME"."""
    return f"{'team' if grant.team else 'person'}:{holder(grant)}"


def candidates(environment: Environment) -> tuple[list[Team], list[User]]:
    """Teams and people of the organization that have no grant here yet; owners need none."""
    present = of(environment)
    granted_teams, granted_people = {grant.team_id for grant in present}, {grant.user_id for grant in present}
    found = teams.of(environment.organization), members.of(environment.organization)
    return (
        [team for team in found[0] if team.id not in granted_teams],
        [one.user for one in found[1] if one.role is not Role.OWNER and one.user_id not in granted_people],
    )


def give(membership: Membership, environment: Environment, level: Access, *, team: str = "", person: str = "") -> Grant:
    """Give the team or the person of this name access, and commit.

    Raises :class:`Forbidden`, and :class:`Invalid` for field "holder".
    """
    require(membership, Permission.MANAGE_ACCESS, _ONLY_ADMINS, environment)
    made = Grant(environment_id=environment.id, access=level)
    if team:
        made.team = next((one for one in teams.of(environment.organization) if one.name == team), None)
    elif person:
        made.user = _member(environment, person)
    if made.team is None and made.user is None:
        raise Invalid("holder", "Choose a team or a member of the organization.")
    db.session.add(made)
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise Invalid("holder", f"{team or person} has access already, or was removed just now.") from None
    _record("access.give", membership, environment, made, level.value)
    db.session.commit()
    return made


def change(
    membership: Membership, environment: Environment, number: int, level: Access, *, whose: str, seen: str
) -> Grant:
    """Change what a grant gives from what was ``seen``, and commit. ``whose`` is its :func:`mark` as it was seen.

    Raises :class:`Forbidden`, :class:`NotFound`, :class:`Conflict`.
    """
    grant = _found(membership, environment, number, whose)
    mine = (Grant.id == number, Grant.access == grant.access)
    if grant.access.value != seen or not won(update(Grant).where(*mine).values(access=level)):
        raise Conflict(_MOVED_ON)
    _record("access.change", membership, environment, grant, [seen, level.value])
    db.session.commit()
    return grant


def remove(membership: Membership, environment: Environment, number: int, *, whose: str) -> Grant:
    """Take the access away, and commit. Arguments and errors are those of :func:`change`."""
    grant = _found(membership, environment, number, whose, lock=True)
    db.session.delete(grant)
    _record("access.remove", membership, environment, grant, grant.access.value)
    db.session.commit()
    return grant


def _found(membership: Membership, environment: Environment, number: int, whose: str, *, lock: bool = False) -> Grant:
    require(membership, Permission.MANAGE_ACCESS, _ONLY_ADMINS, environment)
    grant = db.session.get(Grant, number, with_for_update={"of": Grant} if lock else None)
    if grant is None or grant.environment_id != environment.id:
        raise NotFound("No such access.")
    if mark(grant) != whose:  # SQLite gives the number of a row that is gone to a new one
        raise Conflict(_MOVED_ON)
    return grant


def _member(environment: Environment, name: str) -> User | None:
    try:
        found = members.member(environment.organization, name)
    except NotFound:
        return None
    if found.role is Role.OWNER:
        raise Invalid("holder", f"{name} is an owner and has all access already.")
    access.hold_membership(found.organization_id, found.user_id)
    return found.user


def _record(
    action: str, membership: Membership, environment: Environment, grant: Grant, level: str | list[str]
) -> None:
    told: dict[str, Any] = {"team" if grant.team else "user": holder(grant), "access": level}
    audit.record(action, membership.user, environment=environment, **told)
