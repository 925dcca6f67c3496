"""Organizations and their members."""

from __future__ import annotations

import re

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from extensions import db
from models import Membership, Organization, User
from policy.permissions import Role
from services import audit, clock, members
from services.errors import Invalid, NotFound, SecondFactorNeeded

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)
SLUG_SENTENCE = "A name has lower case letters, digits and dashes, at most 64, and no dash at its ends."


def create_organization(name: str, owner: User | None = None) -> Organization:
    """Make an organization, with ``owner`` as its first owner when given, and commit. Raises :class:`Invalid`."""
    organization = add_organization(name, owner)
    db.session.commit()
    return organization


def add_organization(name: str, owner: User | None) -> Organization:
    """As :func:`create_organization`, without the commit."""
    if not SLUG.fullmatch(name):
        raise Invalid("organization", SLUG_SENTENCE)
    organization = Organization(name=name, created_at=clock.now())
    db.session.add(organization)
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise Invalid("organization", f"The name {name} is taken.") from None
    audit.record("organization.create", owner, organization=organization)
    if owner is not None:
        db.session.add(Membership(organization_id=organization.id, user_id=owner.id, role=Role.OWNER))
    return organization


def add_member(organization: Organization, user: User, role: Role) -> Membership:
    """Make ``user`` a member, or change the role of one, and commit.

    A new member has access to no environment until somebody gives it. Raises :class:`services.errors.Conflict` for
    the last owner, who stays one.
    """
    members.hold_still(organization.id)
    membership = db.session.get(Membership, (organization.id, user.id))
    if membership is None:
        membership = Membership(organization_id=organization.id, user_id=user.id, role=role)
        db.session.add(membership)
    else:
        members.keep_an_owner(membership, role)
        membership.role = role
        if role is not Role.OWNER:
            members.revoke_links(membership)
    audit.record("member.set", None, organization=organization, user=user.name, role=role.value)
    db.session.commit()
    return membership


def by_name(name: str) -> Organization:
    """The organization for an operator's command. Raises :class:`NotFound`."""
    organization = db.session.scalar(select(Organization).where(Organization.name == name))
    if organization is None:
        raise NotFound(f"There is no organization {name}.")
    return organization


def memberships(user: User) -> list[Membership]:
    """The person's organizations, by name."""
    query = select(Membership).join(Organization).where(Membership.user_id == user.id).order_by(Organization.name)
    return list(db.session.scalars(query))


def membership(user: User, organization_name: str) -> Membership:
    """The person's part in an organization.

    Raises :class:`NotFound` for a missing organization and for a stranger alike, :class:`SecondFactorNeeded`.
    """
    query = select(Membership).join(Organization).where(
        Membership.user_id == user.id, Organization.name == organization_name
    )  # fmt: skip
    found = db.session.scalar(query)
    if found is None:
        raise NotFound("No such organization.")
    if found.organization.second_factor_required and found.user.totp_at is None:
        raise SecondFactorNeeded(f"{organization_name} requires a second factor. Set it up in your settings first.")
    return found
