"""Who belongs to an organization: their roles, and how they go.

All changes of who belongs and who owns go through the organization's row, one after the other, so that an organization
always has an owner: two owners who remove each other at once leave one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Result, delete, exists, func, or_, select, update

from extensions import db
from models import Environment, Grant, Membership, OneTimeLink, Organization, Team, TeamMember, User, Variable
from policy.permissions import Permission, Role
from services import audit, clock, runs, sign_ins, tokens
from services.access import require
from services.errors import Conflict, NotFound

#: The events that say that somebody belongs to an organization no more.
GOING = ("member.leave", "member.remove")

_GONE = "No such organization."
_ONLY_OWNERS = "Only owners of the organization can change who belongs to it."


def owners(organization: Organization) -> list[User]:
    """The organization's owners, by name: whom a member can ask."""
    query = select(User).join(Membership, Membership.user_id == User.id).where(
        Membership.organization_id == organization.id, Membership.role == Role.OWNER
    )  # fmt: skip
    return list(db.session.scalars(query.order_by(User.name)))


def of(organization: Organization) -> list[Membership]:
    """Everybody who belongs to it, by name."""
    query = select(Membership).join(User, User.id == Membership.user_id)
    return list(db.session.scalars(query.where(Membership.organization_id == organization.id).order_by(User.name)))


def teams(organization: Organization) -> dict[int, list[Team]]:
    """The teams of each person who is in one, by the person's number; teams by name."""
    query = select(TeamMember.user_id, Team).join(Team, Team.id == TeamMember.team_id)
    found: dict[int, list[Team]] = defaultdict(list)
    for user_id, team in db.session.execute(query.where(Team.organization_id == organization.id).order_by(Team.name)):
        found[user_id].append(team)
    return found


def member(organization: Organization, name: str) -> Membership:
    """The membership of the person of this name. Raises :class:`NotFound`."""
    query = select(Membership).join(User, User.id == Membership.user_id)
    found = db.session.scalar(query.where(Membership.organization_id == organization.id, User.name == name))
    if found is None:
        raise NotFound("No such member.")
    return found


def change_role(actor: Membership, name: str, role: Role) -> Membership:
    """Make a member an owner or an owner a member, and commit.

    Raises :class:`Forbidden`, :class:`NotFound`, and :class:`Conflict` for the last owner.
    """
    found = _held(actor, name)
    require(actor, Permission.MANAGE_MEMBERS, _ONLY_OWNERS)
    if found.role is role:
        raise Conflict(f"{name} is {'an' if role is Role.OWNER else 'a'} {role.value} already. Nothing was changed.")
    keep_an_owner(found, role)
    before, found.role = found.role, role
    if role is not Role.OWNER:
        revoke_links(found)
    audit.record("member.role", actor.user, organization=actor.organization, user=name, role=[before.value, role.value])
    db.session.commit()
    return found


def remove(actor: Membership, name: str) -> None:
    """Take a person out of the organization and sign them out everywhere, at once, and commit. See :func:`_take_out`.

    Raises :class:`Forbidden`, :class:`NotFound`, and :class:`Conflict` for the last owner.
    """
    found = _held(actor, name)
    require(actor, Permission.MANAGE_MEMBERS, _ONLY_OWNERS)
    _take_out(found, actor.user, "member.remove")


def leave(actor: Membership) -> None:
    """Take oneself out. Raises :class:`Conflict` for the last owner."""
    _take_out(_held(actor, actor.user.name), actor.user, "member.leave")


def hold_still(organization_id: int) -> None:
    """Lock the organization's row: who belongs and who owns stays as it is until the caller commits."""
    query = select(Organization.id).where(Organization.id == organization_id)
    db.session.execute(query.with_for_update(key_share=True))


def keep_an_owner(membership: Membership, role: Role | None) -> None:
    """Raise :class:`Conflict` when the last owner would be none any more, or gone (``role`` None).

    The caller holds the organization still.
    """
    if membership.role is not Role.OWNER or role is Role.OWNER:
        return
    others = select(func.count()).select_from(Membership).where(
        Membership.organization_id == membership.organization_id,
        Membership.role == Role.OWNER,
        Membership.user_id != membership.user_id,
    )  # fmt: skip
    if not db.session.scalar(others):
        name, organization = membership.user.name, membership.organization.name
        raise Conflict(f"{name} is the last owner of {organization}. Make somebody else an owner first. "
                       "Nothing was changed.")  # fmt: skip


def _held(actor: Membership, name: str) -> Membership:
    """The membership of ``name``; it, the actor's and all roles stay as they are now until the caller commits."""
    organization_id, user_id = actor.organization_id, actor.user_id
    hold_still(organization_id)
    query = select(Membership).join(User, User.id == Membership.user_id)
    query = query.where(Membership.organization_id == organization_id, or_(User.name == name, User.id == user_id))
    rows = db.session.scalars(query.execution_options(populate_existing=True).with_for_update(of=Membership)).all()
    now = {row.user.name: row for row in rows}
    if user_id not in (row.user_id for row in rows):
        raise NotFound(_GONE)  # removed at this moment
    if name not in now:
        raise NotFound("No such member.")
    return now[name]


def _take_out(membership: Membership, actor: User, action: str) -> None:
    """Nothing of the person's in the organization stays but what they did; the caller has held the membership.

    Their access, their places in teams, their personal variables and the links they made go; their sessions end, and
    their tokens where they belong to no other organization. Runs of theirs that are pending are canceled: they would
    begin by themselves. What they queued ends when a worker would take it (services/execution/taking.py). Runs that
    wait for a person keep waiting: others may go on.
    """
    keep_an_owner(membership, None)
    user, organization = membership.user, membership.organization
    reason = f"{user.name} {'left' if user.id == actor.id else 'was removed'}"
    environments = select(Environment.id).where(Environment.organization_id == organization.id)
    their_teams = select(Team.id).where(Team.organization_id == organization.id)
    gone = {
        "access": _delete(Grant, Grant.user_id == user.id, Grant.environment_id.in_(environments)),
        "teams": _delete(TeamMember, TeamMember.user_id == user.id, TeamMember.team_id.in_(their_teams)),
        "variables": _delete(Variable, Variable.owner_id == user.id, Variable.organization_id == organization.id),
        "links": revoke_links(membership),
        "runs": runs.cancel_pending(user, organization, actor, reason),
    }
    role = membership.role
    db.session.delete(membership)
    db.session.flush()
    elsewhere = db.session.scalar(select(exists().where(Membership.user_id == user.id)))
    gone["tokens"] = 0 if elsewhere else tokens.end_all(user)
    sign_ins.expel(user)
    audit.record(action, actor, organization=organization, user=user.name, role=role.value, ended=gone)
    db.session.commit()


def _delete(model: type, *where: ColumnElement[bool]) -> int:
    return _rows(db.session.execute(delete(model).where(*where)))


def revoke_links(membership: Membership) -> int:
    """An invitation or a reset that an owner made must not outlive their ownership: they know the link."""
    open_ = (OneTimeLink.used_at.is_(None), OneTimeLink.revoked_at.is_(None))
    here = or_(OneTimeLink.organization_id == membership.organization_id, OneTimeLink.organization_id.is_(None))
    mine = update(OneTimeLink).where(OneTimeLink.created_by_id == membership.user_id, here, *open_)
    return _rows(db.session.execute(mine.values(revoked_at=clock.now())))


def _rows(result: Result[Any]) -> int:
    return cast("CursorResult[None]", result).rowcount
