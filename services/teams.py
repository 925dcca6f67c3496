"""Teams: members of an organization who get access together."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from extensions import db
from models import Environment, Grant, Membership, Organization, Team, TeamMember, User
from policy.permissions import Permission
from services import access, audit, clock, members
from services.access import require
from services.compare_and_set import won
from services.errors import Conflict, Invalid, NotFound
from services.organizations import SLUG, SLUG_SENTENCE

_ONLY_OWNERS = "Only owners of the organization can change its teams."


def of(organization: Organization) -> list[Team]:
    """The organization's teams, by name."""
    return list(db.session.scalars(select(Team).where(Team.organization_id == organization.id).order_by(Team.name)))


def team(membership: Membership, number: int, *, seen: str | None = None) -> Team:
    """A team of the member's organization, which was ``seen`` under this name.

    Raises :class:`NotFound`, and :class:`Conflict` for another name: SQLite gives the number of a row that is gone to
    the next one.
    """
    found = db.session.get(Team, number)
    if found is None or found.organization_id != membership.organization_id:
        raise NotFound("No such team.")
    if seen not in (None, found.name):
        raise Conflict(
            "That is not the team that your page showed. Nothing was changed; look at the teams as they are now."
        )
    return found


def people(organization: Organization) -> dict[int, list[User]]:
    """Who is in each team, by the team's number; people by name."""
    query = select(TeamMember.team_id, User).join(User, User.id == TeamMember.user_id).join(Team)
    found: dict[int, list[User]] = defaultdict(list)
    for team_id, user in db.session.execute(query.where(Team.organization_id == organization.id).order_by(User.name)):
        found[team_id].append(user)
    return found


def grants(team: Team) -> list[tuple[Environment, Grant]]:
    """What the team has access to, by the environment's name. For owners: others may not know of all of them."""
    query = select(Environment, Grant).join(Grant, Grant.environment_id == Environment.id)
    rows = db.session.execute(query.where(Grant.team_id == team.id).order_by(Environment.name))
    return [(environment, grant) for environment, grant in rows]


def create(membership: Membership, name: str) -> Team:
    """Make a team with nobody in it, and commit. Raises :class:`Forbidden`, :class:`Invalid` for field "name"."""
    require(membership, Permission.MANAGE_TEAMS, _ONLY_OWNERS)
    made = Team(organization=membership.organization, name=_checked(name), created_at=clock.now())
    db.session.add(made)
    _flush(name)
    audit.record("team.create", membership.user, organization=membership.organization, team=name)
    db.session.commit()
    return made


def rename(membership: Membership, team: Team, name: str) -> None:
    """Give the team another name, and commit. Raises as :func:`create`, and :class:`Conflict`."""
    require(membership, Permission.MANAGE_TEAMS, _ONLY_OWNERS)
    before, name = team.name, _checked(name)
    if name == before:
        return
    try:
        changed = won(update(Team).where(Team.id == team.id, Team.name == before).values(name=name))
    except IntegrityError:
        db.session.rollback()
        raise _taken(name) from None
    if not changed:
        raise Conflict("Somebody renamed or deleted this team just now. Nothing was changed.")
    audit.record("team.rename", membership.user, organization=membership.organization, team=[before, name])
    db.session.commit()


def remove(membership: Membership, team: Team) -> None:
    """Delete the team and what it had access to, and commit; its people stay. Raises as :func:`rename`."""
    require(membership, Permission.MANAGE_TEAMS, _ONLY_OWNERS)
    number, name = team.id, team.name
    if db.session.scalar(select(Team.id).where(Team.id == number).with_for_update()) is None:
        raise Conflict("Somebody deleted this team just now.")
    had = [[environment.name, grant.access.value] for environment, grant in grants(team)]
    was = [user.name for user in people(membership.organization)[number]]
    for statement in (
        delete(Grant).where(Grant.team_id == number),
        delete(TeamMember).where(TeamMember.team_id == number),
        delete(Team).where(Team.id == number),
    ):
        db.session.execute(statement)
    audit.record(
        "team.delete", membership.user, organization=membership.organization, team=name, people=was, access=had
    )
    db.session.commit()


def add(membership: Membership, team: Team, name: str) -> None:
    """Put a member into the team, and commit. Raises :class:`Forbidden`, :class:`Invalid` for field "person"."""
    require(membership, Permission.MANAGE_TEAMS, _ONLY_OWNERS)
    try:
        user = members.member(membership.organization, name).user
    except NotFound:
        raise Invalid("person", "Choose a member of the organization.") from None
    access.hold_membership(membership.organization_id, user.id)
    db.session.add(TeamMember(team_id=team.id, user_id=user.id))
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise Invalid("person", f"{name} is in this team already, or the team was deleted just now.") from None
    audit.record("team.add", membership.user, organization=membership.organization, team=team.name, user=name)
    db.session.commit()


def take_out(membership: Membership, team: Team, name: str) -> None:
    """Take somebody out of the team, and commit. Raises :class:`Forbidden`, :class:`NotFound`."""
    require(membership, Permission.MANAGE_TEAMS, _ONLY_OWNERS)
    user_id = select(User.id).where(User.name == name).scalar_subquery()
    mine = (TeamMember.team_id == team.id, TeamMember.user_id == user_id)
    row = db.session.scalar(select(TeamMember).where(*mine).with_for_update(of=TeamMember))
    if row is None:
        raise NotFound("Nobody of this name is in the team.")
    db.session.delete(row)
    audit.record("team.remove", membership.user, organization=membership.organization, team=team.name, user=name)
    db.session.commit()


def _checked(name: str) -> str:
    if not SLUG.fullmatch(name):
        raise Invalid("name", SLUG_SENTENCE)
    return name


def _flush(name: str) -> None:
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise _taken(name) from None


def _taken(name: str) -> Invalid:
    return Invalid("name", f"There is a team {name} already.")
