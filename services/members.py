"""Who belongs to an organization."""

from __future__ import annotations

from sqlalchemy import select

from extensions import db
from models import Membership, Organization, User
from policy.permissions import Role


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
