"""What a person may see, asked in Python and in SQL: the list, the page and the poll of a run say the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from extensions import db
from models import Environment, Run
from policy.lifecycle import RunStatus
from policy.permissions import Access, Permission, Role
from services import access, environments, organizations, pulse, sign_ins
from services.errors import NotFound
from tests import factories
from tests.factories import make_world

#: Everybody, and whether they may see "network".
PEOPLE = {
    "alice": True,  # owner
    "ada": True,  # admin by a team
    "bob": True,  # writer
    "rita": True,  # reader
    "rob": True,  # reader by a team
    "nick": False,  # member without access
    "nell": False,  # member of a team that has access to nothing
    "nora": False,  # has access to another environment only
    "carol": False,  # owns another organization
    "dan": False,  # belongs nowhere
    "former": False,  # no member any more, with a grant that was left behind
}


@pytest.fixture
def run(app: Flask) -> Iterator[Run]:
    """A run in network, with all those people around it."""
    make_world(app)
    with app.app_context():
        network, other = factories.environment(), factories.environment("other")
        for name in ("ada", "rob", "nick", "nell", "nora"):
            factories.member(name, role=Role.MEMBER, access=None)
        factories.member("rita", role=Role.MEMBER, access=Access.READ)
        factories.grant(network, factories.team("admins", "ada"), Access.ADMIN)
        factories.grant(network, factories.team("readers", "rob"), Access.READ)
        factories.team("idle", "nell")
        factories.grant(other, "nora", Access.ADMIN)
        factories.person("dan")
        factories.grant(network, "former", Access.ADMIN)
        yield factories.run(network, RunStatus.AWAITING_CONFIRMATION)


def _enters(name: str) -> bool:
    try:
        environments.enter(organizations.membership(factories.person(name), "acme"), "network")
    except NotFound:
        return False
    return True


def _lists(name: str) -> bool:
    found = [m for m in organizations.memberships(factories.person(name)) if m.organization.name == "acme"]
    return any(one.name == "network" for m in found for one in environments.environments(m))


def _polls(name: str, run: Run) -> pulse.Pulse | None:
    user_id, epoch, token = sign_ins.parse(factories.session_of(factories.person(name))) or (0, 0, "")
    return pulse.look(pulse.Asked(user_id, epoch, token, "acme", "network", run.number))


@pytest.mark.parametrize("name", PEOPLE)
def test_page_list_and_poll_agree(run: Run, name: str) -> None:
    found = {"page": _enters(name), "list": _lists(name), "poll": _polls(name, run) is not None}
    assert found == dict.fromkeys(found, PEOPLE[name])


@pytest.mark.parametrize("change", ["grant", "team", "membership"])
def test_a_poll_stops_at_once(run: Run, change: str) -> None:
    network = run.environment
    factories.grant(network, "bob", None)
    team = factories.team("writers", "bob")
    factories.grant(network, team, Access.WRITE)
    assert _polls("bob", run)
    if change == "grant":
        factories.grant(network, team, None)
    elif change == "team":
        db.session.delete(db.session.get_one(factories.people.TeamMember, (team.id, factories.person("bob").id)))
    else:
        db.session.delete(factories.member("bob"))
    db.session.commit()
    assert _polls("bob", run) is None


def test_a_page_is_made_anew_when_the_access_changes(run: Run) -> None:
    before = _polls("bob", run)
    factories.grant(run.environment, "bob", Access.READ)
    after = _polls("bob", run)
    assert before and after and before.stamp != after.stamp, "its buttons must go"


def test_access_of_one_environment_says_nothing_of_another(run: Run) -> None:
    nora = factories.member("nora")
    other = factories.environment("other")
    assert access.authority(nora, other).may(Permission.REPLACE_STATE)
    assert not access.authority(nora, run.environment).may(Permission.READ)
    with pytest.raises(NotFound):
        access.require(nora, Permission.WRITE, "You cannot.", run.environment)
    abroad: Environment = factories.environment("abroad", "other")
    with pytest.raises(NotFound):
        access.authority(factories.member("alice"), abroad)
