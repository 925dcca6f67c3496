"""Leaving, removal and roles: what ends with them, and that an organization always has an owner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from extensions import db
from models import (
    ApiToken,
    AuditEvent,
    Category,
    Grant,
    LinkKind,
    Membership,
    OneTimeLink,
    SignIn,
    TeamMember,
    TokenScope,
    User,
    Variable,
)
from policy.lifecycle import RunStatus
from policy.permissions import Access, Role
from services import access, clock, grants, members, organizations, teams, tokens, variables
from services.errors import Conflict, Forbidden, Invalid, NotFound
from services.variables import Place
from tests import factories
from tests.factories import make_world


@pytest.fixture
def here(app: Flask) -> Iterator[None]:
    """The world, and work with its database."""
    make_world(app)
    with app.app_context():
        yield


def _count(model: Any, **where: Any) -> int:
    return db.session.scalar(select(func.count()).select_from(model).filter_by(**where)) or 0


def _settle(name: str) -> User:
    """A person with everything that a removal ends."""
    user, network = factories.person(name), factories.environment()
    factories.grant(network, name, Access.ADMIN)
    factories.team("platform", name)
    factories.variable("AWS_SECRET_ACCESS_KEY", "secret", owner=name, sensitive=True)
    factories.variable("of_the_environment", "hidden", of=network, owner=name)
    tokens.create(user, "laptop", TokenScope.QUEUE, None)
    factories.sign_in(name)
    return user


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("way", ["remove", "leave"])
def test_whoever_goes_leaves_nothing_behind(way: str) -> None:
    bob, kept = _settle("bob"), factories.variable("owner_tag", "platform").id
    network = factories.environment()
    run = factories.run(network, RunStatus.AWAITING_CONFIRMATION, by="bob")
    pending, others = factories.run(network, by="bob"), factories.run(network)
    epoch = bob.session_epoch
    if way == "remove":
        members.remove(factories.member(), "bob")
    else:
        members.leave(factories.member("bob"))
    db.session.expire_all()
    assert _count(Membership, user_id=bob.id) == 0
    assert _count(Grant, user_id=bob.id) == _count(TeamMember, user_id=bob.id) == 0
    assert [row.id for row in db.session.scalars(select(Variable))] == [kept]
    assert _count(SignIn, user_id=bob.id, ended_at=None) == 0 and bob.session_epoch > epoch
    assert _count(ApiToken, user_id=bob.id, revoked_at=None) == 0
    assert run.status is RunStatus.AWAITING_CONFIRMATION, "somebody else may go on with it"
    # It would begin by itself, in the name of somebody who belongs here no more.
    assert (pending.status, others.status) == (RunStatus.CANCELED, RunStatus.PENDING)
    canceled = db.session.scalars(select(AuditEvent).filter_by(action="run.cancel")).one()
    assert (canceled.run_id, canceled.details) == (
        pending.id,
        {"reason": f"bob {'was removed' if way == 'remove' else 'left'}"},
    )
    told = db.session.scalars(select(AuditEvent).filter_by(action=f"member.{way}")).one()
    assert told.actor_name == ("alice" if way == "remove" else "bob")
    assert told.details == {
        "user": "bob",
        "role": "member",
        "ended": {"access": 1, "teams": 1, "variables": 2, "links": 0, "runs": 1, "tokens": 1},
    }
    assert "secret" not in str(told.details)


@pytest.mark.usefixtures("here")
def test_what_is_in_another_organization_stays_there() -> None:
    bob = _settle("bob")
    abroad = factories.environment("abroad", "other")
    factories.member("bob", "other", Role.MEMBER, access=None)
    factories.grant(abroad, "bob", Access.READ)
    factories.team("theirs", "bob", of="other")
    factories.variable("mine", "there", organization_name="other", owner="bob")
    pending = factories.run(abroad, by="bob")
    members.remove(factories.member(), "bob")
    assert [grant.environment_id for grant in db.session.scalars(select(Grant).filter_by(user_id=bob.id))] == [
        abroad.id
    ]
    assert _count(TeamMember, user_id=bob.id) == _count(Variable, owner_id=bob.id) == 1
    assert _count(ApiToken, user_id=bob.id, revoked_at=None) == 1
    assert _count(SignIn, user_id=bob.id, ended_at=None) == 0, "they sign in again"
    db.session.refresh(pending)
    assert pending.status is RunStatus.PENDING


@pytest.mark.usefixtures("here")
def test_the_last_owner_stays_one() -> None:
    for act in (
        lambda: members.leave(factories.member()),
        lambda: members.remove(factories.member(), "alice"),
        lambda: members.change_role(factories.member(), "alice", Role.MEMBER),
        lambda: organizations.add_member(factories.organization("acme"), factories.person("alice"), Role.MEMBER),
    ):
        with pytest.raises(Conflict, match=r"alice is the last owner of acme"):
            act()
        db.session.rollback()
    members.change_role(factories.member(), "bob", Role.OWNER)
    members.leave(factories.member())
    assert [owner.name for owner in members.owners(factories.organization("acme"))] == ["bob"]


@pytest.mark.usefixtures("here")
def test_members_change_nobody() -> None:
    factories.grant(factories.environment(), "bob", Access.ADMIN)
    for act in (
        lambda: members.change_role(factories.member("bob"), "bob", Role.OWNER),
        lambda: members.remove(factories.member("bob"), "alice"),
        lambda: teams.create(factories.member("bob"), "mine"),
    ):
        with pytest.raises(Forbidden):
            act()
        db.session.rollback()
    with pytest.raises(NotFound):
        members.remove(factories.member(), "carol")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("way", ["demoted", "removed"])
def test_links_of_an_owner_end_with_the_ownership(way: str) -> None:
    factories.member("olga", role=Role.OWNER)
    now, olga, acme = clock.now(), factories.person("olga"), factories.organization("acme")
    for number, kind in enumerate(LinkKind):
        where = acme.id if kind is LinkKind.INVITATION else None
        db.session.add(
            OneTimeLink(kind=kind, digest=str(number), organization_id=where, created_by_id=olga.id, created_at=now,
                        expires_at=now)
        )  # fmt: skip
    db.session.commit()
    if way == "demoted":
        members.change_role(factories.member(), "olga", Role.MEMBER)
    else:
        members.remove(factories.member(), "olga")
    assert _count(OneTimeLink, revoked_at=None) == 0


@pytest.mark.usefixtures("here")
def test_the_highest_of_all_grants_counts() -> None:
    network = factories.environment()
    high, low = factories.team("high", "bob"), factories.team("low", "bob")
    for own, of_high, of_low in itertools.product((None, *Access), repeat=3):
        factories.grant(network, "bob", own)
        factories.grant(network, high, of_high)
        factories.grant(network, low, of_low)
        ranks = [level.rank for level in (own, of_high, of_low) if level]
        found = members_access(network)
        assert (found.rank if found else 0) == max(ranks, default=0)


def members_access(network: Any) -> Access | None:
    return access.authority(factories.member("bob"), network).access


@pytest.mark.usefixtures("here")
def test_a_grant_is_for_teams_and_members_of_the_same_organization() -> None:
    network, alice = factories.environment(), factories.member()
    factories.team("theirs", "carol", of="other")
    for holder in ({"team": "theirs"}, {"person": "carol"}, {"person": "nobody"}, {"person": "alice"}, {}):
        with pytest.raises(Invalid):
            grants.give(alice, network, Access.READ, **holder)
        db.session.rollback()
    with pytest.raises(Invalid, match=r"bob has access already"):
        grants.give(alice, network, Access.READ, person="bob")


@pytest.mark.usefixtures("here")
def test_an_access_that_somebody_changed_meanwhile_is_not_overwritten() -> None:
    network = factories.environment()
    (grant,) = grants.of(network)
    grants.change(factories.member(), network, grant.id, Access.ADMIN, whose="person:bob", seen="write")
    with pytest.raises(Conflict):
        grants.change(factories.member(), network, grant.id, Access.READ, whose="person:bob", seen="write")
    db.session.rollback()
    assert grants.of(network)[0].access is Access.ADMIN


@pytest.mark.usefixtures("here")
def test_a_deleted_team_takes_its_access_along() -> None:
    network = factories.environment()
    factories.grant(network, "bob", None)
    team = factories.team("platform", "bob")
    factories.grant(network, team, Access.WRITE)
    teams.remove(factories.member(), team)
    assert members_access(network) is None
    assert _count(TeamMember) == 0


@pytest.mark.usefixtures("here")
def test_who_is_gone_saves_nothing_more() -> None:
    """As a request of theirs that began before."""
    gone, place = factories.member("bob"), Place(factories.organization("acme"), None, factories.person("bob"))
    members.remove(factories.member(), "bob")
    with pytest.raises(NotFound):
        variables.save(gone, place, category=Category.ENV, name="x", value="y", sensitive=False)
