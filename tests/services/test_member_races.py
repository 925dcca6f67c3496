"""Owners, removals and access at the same moment, on a real PostgreSQL and in sessions of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

import config
from extensions import db
from models import Category, Grant, Membership, Run, TeamMember, Variable
from policy.lifecycle import RunStatus
from policy.permissions import Access, Role
from services import configurations, grants, members, organizations, runs, teams, variables
from services.errors import Conflict, Forbidden, Invalid, NotFound
from services.variables import Place
from tests import factories
from tests.factories import make_world
from tests.services.test_races import ROUNDS, at_once
from tests.support import postgres
from tests.support.app import running_app


@pytest.fixture(scope="module")
def postgres_app(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, postgres_server: postgres.Server
) -> Iterator[Flask]:
    home = str(tmp_path_factory.mktemp("home"))
    environ = {"LOCKSTEP_HOME": home, "REDIS_URL": redis_url, "DATABASE_URL": postgres_server.database()}
    with running_app(config.load(environ)) as app:
        yield app


@pytest.fixture
def application(postgres_app: Flask) -> Flask:
    """The application whose tables the usual fixtures empty for each test."""
    return postgres_app


@pytest.fixture
def here(app: Flask) -> Iterator[Flask]:
    """The world, and work with its database."""
    make_world(app)
    with app.app_context():
        yield app


def _owners() -> list[str]:
    return [owner.name for owner in members.owners(factories.organization("acme"))]


def _left_behind(name: str) -> list[int]:
    """How much of a person's is in the organization."""
    user_id = factories.person(name).id
    found = ((Grant, Grant.user_id), (TeamMember, TeamMember.user_id), (Variable, Variable.owner_id))
    return [db.session.scalar(select(func.count()).select_from(model).where(of == user_id)) or 0 for model, of in found]


def _still(name: str) -> Membership:
    """The membership of somebody who may have been removed at this moment: a page then finds nothing."""
    try:
        return factories.member(name)
    except AssertionError:
        raise NotFound("No such organization.") from None


@pytest.mark.parametrize("way", ["remove", "demote", "leave", "command"])
def test_two_owners_at_once_leave_one(here: Flask, way: str) -> None:
    acts: dict[str, Callable[[str, str], Any]] = {
        "remove": lambda by, other: members.remove(_still(by), other),
        "demote": lambda by, other: members.change_role(_still(by), other, Role.MEMBER),
        "leave": lambda by, _other: members.leave(_still(by)),
        "command": lambda by, _other: organizations.add_member(
            factories.organization("acme"), factories.person(by), Role.MEMBER
        ),
    }
    for number in range(ROUNDS):
        pair = [f"owner{number}", f"second{number}"]
        for name in pair:
            factories.member(name, role=Role.OWNER)
        for name in _owners():
            if name not in pair:
                db.session.get_one(
                    Membership, (factories.organization("acme").id, factories.person(name).id)
                ).role = Role.MEMBER
        db.session.commit()
        answers = at_once(here, partial(acts[way], *pair), partial(acts[way], *reversed(pair)))
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert len(refused) == 1 and isinstance(refused[0], Conflict | NotFound | Forbidden), answers
        assert len(_owners()) == 1


def test_nothing_of_somebody_who_is_removed_comes_in_behind(here: Flask) -> None:
    """A grant, a place in a team and a personal variable that are made at the moment of the removal."""
    for number in range(ROUNDS):
        name = f"guest{number}"
        factories.member(name, role=Role.MEMBER, access=None)
        factories.team("platform")

        def save(name: str = name) -> Variable:
            by = factories.member(name)
            place = Place(factories.organization("acme"), None, factories.person(name))
            return variables.save(by, place, category=Category.ENV, name="MINE", value="x", sensitive=False)

        calls: list[Callable[[], Any]] = [
            partial(_remove, name),
            partial(_grant, name),
            partial(_join, name),
            save,
        ]
        answers = at_once(here, *calls)
        assert answers[0] is None, answers
        for answer in answers[1:]:
            assert not isinstance(answer, Exception) or isinstance(answer, NotFound | Invalid | AssertionError), answers
        assert _left_behind(name) == [0, 0, 0], answers


def test_no_run_of_somebody_who_is_removed_is_pending_behind(here: Flask) -> None:
    factories.configuration(factories.environment())
    factories.run(factories.environment(), RunStatus.PLANNING)  # whatever else is queued has to wait
    for number in range(ROUNDS):
        name = f"guest{number}"
        factories.member(name, role=Role.MEMBER, access=Access.WRITE)

        def queue(name: str = name) -> None:
            environment = factories.environment()
            version = configurations.latest(environment)
            assert version is not None
            runs.create_run(factories.member(name), environment, version)

        removed, queued = at_once(here, partial(_remove, name), queue)
        assert removed is None and isinstance(queued, NotFound | AssertionError | None), queued
        left = db.session.scalars(select(Run.status).where(Run.created_by_id == factories.person(name).id)).all()
        assert left in ([], [RunStatus.CANCELED])


def _remove(name: str) -> None:
    members.remove(factories.member(), name)


def _grant(name: str) -> Grant:
    return grants.give(factories.member(), factories.environment(), Access.WRITE, person=name)


def _join(name: str) -> None:
    teams.add(factories.member(), factories.team("platform"), name)


def test_a_team_that_is_deleted_while_it_gets_access(here: Flask) -> None:
    for number in range(ROUNDS):
        team = factories.team(f"team{number}")
        number_, name = team.id, team.name

        def delete(number_: int = number_) -> None:
            by = factories.member()
            teams.remove(by, teams.team(by, number_))

        def give(name: str = name) -> Grant:
            return grants.give(factories.member(), factories.environment(), Access.WRITE, team=name)

        deleted, given = at_once(here, delete, give)
        assert deleted is None, deleted
        assert isinstance(given, Grant | Invalid), given
        assert db.session.scalar(select(func.count()).select_from(Grant).where(Grant.team_id == number_)) == 0
