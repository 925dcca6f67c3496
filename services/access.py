"""What a person may do at a place. Every service asks here; the rules are policy/permissions.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select

from extensions import db
from models import Environment, Grant, Membership, Organization, TeamMember, User
from policy.permissions import Access, Permission, Role, allows
from services.errors import Forbidden, NotFound

_RANKS = {access.rank: access for access in Access}


@dataclass(frozen=True)
class Authority:
    """A member in one environment. ``access`` is what they were granted there, None for nothing; owners need none."""

    membership: Membership
    environment: Environment
    access: Access | None

    def may(self, permission: Permission) -> bool:
        """Whether the person may do ``permission`` here."""
        return allows(self.membership.role, self.access, permission)

    @property
    def user(self) -> User:
        """The person."""
        return self.membership.user

    @property
    def user_id(self) -> int:
        """The person's number."""
        return self.membership.user_id

    @property
    def organization(self) -> Organization:
        """Whose the environment is."""
        return self.membership.organization


def rank(user_id: Any, environment_id: Any) -> ColumnElement[int]:
    """In SQL: the rank of the highest access that was granted to the person or a team of theirs; 0 for none.

    Both may be columns of the query around it. Grants count only for members: join the membership there.
    """
    number = case(*((Grant.access == access, number) for number, access in _RANKS.items()))
    teams = select(TeamMember.team_id).where(TeamMember.user_id == user_id).correlate_except(TeamMember)
    highest = select(func.max(number)).where(
        Grant.environment_id == environment_id, or_(Grant.user_id == user_id, Grant.team_id.in_(teams))
    )
    return func.coalesce(highest.correlate_except(Grant).scalar_subquery(), 0)


def visible() -> ColumnElement[bool]:
    """In SQL, for queries of Environment and Membership: whether this member may see this environment at all."""
    granted = rank(Membership.user_id, Environment.id) >= Access.READ.rank
    return and_(Membership.organization_id == Environment.organization_id, or_(Membership.role == Role.OWNER, granted))


def authority(membership: Membership, environment: Environment) -> Authority:
    """The member in this environment, as it is now. Raises :class:`NotFound` for one of another organization."""
    if environment.organization_id != membership.organization_id:
        raise NotFound("No such environment.")
    found = 0
    if membership.role is not Role.OWNER:
        found = db.session.scalar(select(rank(literal(membership.user_id), literal(environment.id)))) or 0
    return Authority(membership, environment, _RANKS.get(found))


def may(user: User, permission: Permission, environment: Environment) -> bool:
    """Whether somebody may do ``permission`` in an environment, whether or not they are a member, as it is now."""
    mine = Membership.organization_id == environment.organization_id, Membership.user_id == user.id
    query = select(Membership.role, rank(literal(user.id), literal(environment.id))).where(*mine)
    found = db.session.execute(query).one_or_none()
    return found is not None and allows(found[0], _RANKS.get(found[1]), permission)


def require(
    membership: Membership, permission: Permission, sentence: str, environment: Environment | None = None
) -> None:
    """Raise :class:`Forbidden` with the sentence unless the member has the permission, there.

    What is in an environment needs ``environment``: without it only owners pass. Raises :class:`NotFound` for an
    environment that the member may not know about.
    """
    if environment is None:
        allowed = membership.may(permission)
    else:
        here = authority(membership, environment)
        if not here.may(Permission.READ):
            raise NotFound("No such environment.")
        allowed = here.may(permission)
    if not allowed:
        raise Forbidden(sentence)


def hold_membership(organization_id: int, user_id: int) -> None:
    """The person stays a member until the caller commits: nothing of theirs is left behind by a removal meanwhile.

    Raises :class:`NotFound` when they are none any more.
    """
    mine = (Membership.organization_id == organization_id, Membership.user_id == user_id)
    if db.session.scalar(select(Membership.user_id).where(*mine).with_for_update(read=True, key_share=True)) is None:
        raise NotFound("No such member.")
