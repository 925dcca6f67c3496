"""People and organizations."""

from __future__ import annotations

from functools import cache

from sqlalchemy import delete, select
from werkzeug.security import generate_password_hash

from extensions import db
from models import Environment, Grant, Membership, OneTimeLink, Organization, SignIn, Team, TeamMember, User
from policy.permissions import Access, Role
from services import clock, links, sign_ins

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


def member(
    user: str = "alice", of: str = "acme", role: Role | None = None, access: Access | None = Access.WRITE
) -> Membership:
    """The membership of a person; with ``role`` it is made when it is not there yet.

    A new one gets ``access`` to every environment that is there; one that is made later lets every member write.
    """
    found = db.session.get(Membership, (organization(of).id, person(user).id))
    if found is None:
        assert role is not None, f"{user} is no member of {of}"
        found = Membership(organization=organization(of), user=person(user), role=role)
        db.session.add(found)
        db.session.commit()
        if access is not None and role is Role.MEMBER:
            for environment in db.session.scalars(
                select(Environment).where(Environment.organization_id == found.organization_id)
            ):
                grant(environment, user, access)
    return found


def grant(environment: Environment, to: str | Team, access: Access | None) -> None:
    """What a person or a team may do in an environment from now on; None for nothing."""
    holder = {"user_id": person(to).id} if isinstance(to, str) else {"team_id": to.id}
    db.session.execute(delete(Grant).filter_by(environment_id=environment.id, **holder))
    if access is not None:
        db.session.add(Grant(environment_id=environment.id, access=access, **holder))
    db.session.commit()


def team(name: str, *people: str, of: str = "acme") -> Team:
    """The team of this name, made when it is not there yet, with these people in it besides those who are."""
    found = db.session.scalar(select(Team).where(Team.organization_id == organization(of).id, Team.name == name))
    if found is None:
        found = Team(name=name, organization=organization(of), created_at=clock.now())
        db.session.add(found)
        db.session.flush()
    for who in people:
        db.session.merge(TeamMember(team_id=found.id, user_id=person(who).id))
    db.session.commit()
    return found


def sign_in(user: str) -> SignIn:
    """A browser somewhere in which the person is signed in."""
    token = session_of(person(user)).rpartition(".")[2]
    return db.session.scalars(select(SignIn).where(SignIn.digest == sign_ins.digest(token))).one()


def session_of(user: User) -> str:
    """What the cookie of another such browser holds: "user.epoch.secret"."""
    return sign_ins.begin(sign_ins.Arrival(user, user.session_epoch), "password")


def invitation(by: str = "alice", of: str = "acme") -> OneTimeLink:
    """An invitation by an owner that waits."""
    links.invite(member(by, of), Role.MEMBER, "")
    return links.invitations(organization(of))[0]
