"""People and organizations."""

from __future__ import annotations

from functools import cache

from sqlalchemy import select
from werkzeug.security import generate_password_hash

from extensions import db
from models import Environment, Grant, Membership, Organization, SignIn, Team, TeamMember, User
from policy.permissions import Access, Role
from services import clock, sign_ins

#: Everybody's password.
PASSWORD = "correct horse battery staple"


@cache
def _hash() -> str:
    # As in production, but with the least cost: each test that signs somebody in pays for it.
    return generate_password_hash(PASSWORD, method="scrypt:1024:8:1")


def person(name: str) -> User:
    """The account of this name, made when it is not there yet."""
    user = db.session.scalar(select(User).where(User.name == name))
    if user is None:
        user = User(name=name, email=f"{name}@example.com", password_hash=_hash(), created_at=clock.now())
        db.session.add(user)
        db.session.commit()
    return user


def organization(name: str) -> Organization:
    """The organization of this name, made when it is not there yet."""
    found = db.session.scalar(select(Organization).where(Organization.name == name))
    if found is None:
        found = Organization(name=name, created_at=clock.now())
        db.session.add(found)
        db.session.commit()
    return found


def member(user: str = "alice", of: str = "acme", role: Role | None = None) -> Membership:
    """The membership of a person; with ``role`` it is made when it is not there yet."""
    found = db.session.get(Membership, (organization(of).id, person(user).id))
    if found is None:
        assert role is not None, f"{user} is no member of {of}"
        found = Membership(organization=organization(of), user=person(user), role=role)
        db.session.add(found)
        db.session.commit()
    return found


def sign_in(user: str) -> SignIn:
    """A browser somewhere in which the person is signed in."""
    token = sign_ins.begin(person(user), "password")
    return db.session.scalars(select(SignIn).where(SignIn.digest == sign_ins.digest(token))).one()
