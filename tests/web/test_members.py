"""The pages of members, teams and access: who sees what there, and that a change holds from the next request on."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from extensions import db
from models import Grant, Team, TokenScope
from policy.permissions import Access, Role
from services import teams, tokens
from tests import factories
from tests.factories import World
from tests.support.client import Client, form_in


def _text(answer: TestResponse) -> str:
    return answer.get_data(as_text=True)


def _token(app: Flask, name: str) -> str:
    with app.app_context():
        return tokens.create(factories.person(name), "laptop", TokenScope.QUEUE, None)[1]


def _state(app: Flask, name: str, token: str) -> int:
    return app.test_client().get("/api/v1/states/acme/network", auth=(name, token)).status_code


def test_a_removed_person_is_out_at_once(app: Flask, alice: Client, bob: Client, world: World) -> None:
    token = _token(app, "bob")
    assert bob.get(f"{world.path}/changes/runs").status_code == 200
    assert _state(app, "bob", token) == 204
    page = _text(alice.submit(f"{world.home}/members/bob/remove", follow_redirects=True))
    assert "bob is removed and signed out everywhere." in page and "bob@example.com" not in page
    answer = bob.get(f"{world.path}/changes/runs")
    assert answer.status_code == 302 and answer.location.startswith("/login")
    assert _state(app, "bob", token) == 401
    assert bob.sign_in("bob").get(world.home).status_code == 404


def test_leaving_signs_out(bob: Client, world: World) -> None:
    assert bob.submit(f"{world.home}/members/leave").status_code == 303
    assert bob.get("/").location.startswith("/login")


def test_access_that_is_taken_away_ends_with_the_request(app: Flask, bob: Client, world: World) -> None:
    token = _token(app, "bob")
    for access, page, settings, download in (
        (Access.WRITE, 200, 403, 204),
        (Access.READ, 200, 403, 403),
        (None, 404, 404, 403),  # of states nobody gets a 404 (docs/adr/0008)
        (Access.ADMIN, 200, 303, 204),
    ):
        with app.app_context():
            factories.grant(factories.environment(), "bob", access)
        assert bob.get(f"{world.path}/changes/runs").status_code == page
        form = {"description": "x", "seen_description": ""}
        assert bob.submit(f"{world.path}/settings", form).status_code == settings
        assert _state(app, "bob", token) == download
        listed = _text(bob.get(world.home))
        assert (f"{world.path}/changes" in listed) is (access is not None)


def test_members_see_people_and_no_controls(app: Flask, alice: Client, bob: Client, world: World) -> None:
    with app.app_context():
        team = factories.team("platform", "bob")
        factories.grant(factories.environment(), team, Access.ADMIN)
        number = team.id
    mine, theirs = (_text(client.get(f"{world.home}/members")) for client in (alice, bob))
    assert "members/bob/remove" in mine and "alice@example.com" in mine and "The last owner stays one" in mine
    assert "members/alice" not in theirs and "alice@example.com" not in theirs and "Leave acme now" in theirs
    mine, theirs = (_text(client.get(f"{world.home}/teams/{number}")) for client in (alice, bob))
    assert "Delete team platform" in mine and "network" in mine
    assert "Delete" not in theirs and "network" not in theirs, "which environments there are is not told by a team"


def test_an_admin_gives_changes_and_removes_access(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        network = factories.environment()
        factories.grant(network, "bob", Access.ADMIN)
        factories.member("erin", role=Role.MEMBER, access=None)
        factories.team("platform")
    here = f"{world.path}/access"
    assert "erin" in _text(bob.get(here)) and "team:platform" in _text(bob.get(here))
    page = _text(bob.submit(here, {"holder": "team:platform", "access": "read"}, follow_redirects=True))
    assert "platform has read access now." in page
    for wrong in ({"holder": "person:alice", "access": "read"}, {"holder": "person:erin", "access": "all"},
                  {"holder": "platform", "access": "read"}, {}):  # fmt: skip
        answer = bob.submit(here, wrong)
        assert answer.status_code == 422 and 'aria-invalid="true"' in _text(answer)
    with app.app_context():
        mine = next(grant.id for grant in _grants() if grant.user_id)
    form = form_in(_text(bob.get(here)), f"{here}/{mine}/remove")
    page = _text(bob.submit(f"{here}/{mine}/remove", form, follow_redirects=True))
    assert "The access of bob is taken away." in page and "no environment here that you have access to" in page


def test_an_old_page_changes_the_access_of_nobody_else(app: Flask, alice: Client, world: World) -> None:
    """SQLite gives the number of the newest row, when it is gone, to the next."""
    here = f"{world.path}/access"
    with app.app_context():
        for name in ("erin", "mallory"):
            factories.member(name, role=Role.MEMBER, access=None)
        factories.grant(factories.environment(), "erin", Access.WRITE)
        number = _grants()[-1].id
    page = _text(alice.get(here))
    change, remove = f"{here}/{number}", f"{here}/{number}/remove"
    with app.app_context():
        factories.grant(factories.environment(), "erin", None)
        here_too = {"environment_id": factories.environment().id, "user_id": factories.person("mallory").id}
        db.session.add(Grant(id=number, access=Access.WRITE, **here_too))
        db.session.commit()
    for path, typed in ((change, {"access": "admin"}), (remove, {})):
        answer = alice.submit(path, form_in(page, path) | typed)
        assert answer.status_code == 409 and "Nothing was changed" in _text(answer)
        assert alice.submit(path, {"seen": "write"} | typed).status_code == 409
    with app.app_context():
        assert db.session.get_one(Grant, number).access is Access.WRITE
    now = _text(alice.get(here))
    assert alice.submit(change, form_in(now, change) | {"access": "admin"}).status_code == 303
    assert alice.submit(remove, form_in(_text(alice.get(here)), remove)).status_code == 303


def test_an_old_page_changes_no_other_team(app: Flask, alice: Client, world: World) -> None:
    """It would put somebody into it, with all of its access."""
    with app.app_context():
        number = factories.team("readers", "bob").id
    page = _text(alice.get(f"{world.home}/teams/{number}"))
    with app.app_context():
        db.session.get_one(Team, number).name = "deployers"  # as if it were deleted, and another one made
        db.session.commit()
    forms = {"members": {"person": "alice"}, "members/bob/remove": {}, "name": {"name": "others"}, "delete": {}}
    for path, typed in forms.items():
        address = f"{world.home}/teams/{number}/{path}"
        answer = alice.submit(address, form_in(page, address) | typed)
        assert answer.status_code == 409 and "Nothing was changed" in _text(answer), path
    with app.app_context():
        team = db.session.get_one(Team, number)
        assert team.name == "deployers" and [one.name for one in teams.people(team.organization)[number]] == ["bob"]
    page = _text(alice.get(f"{world.home}/teams/{number}"))
    for path, typed in forms.items():
        address = f"{world.home}/teams/{number}/{path}"
        assert alice.submit(address, form_in(page, address) | typed).status_code == 303, path
        page = page.replace('name="team" value="deployers"', 'name="team" value="others"') if path == "name" else page


def _grants() -> list[factories.people.Grant]:
    grants = factories.people.Grant
    return list(db.session.scalars(db.select(grants).order_by(grants.id)))


@pytest.mark.parametrize("name", ["", "Platform", "a b", "x" * 65, "platform"])
def test_a_name_that_no_team_can_have(app: Flask, alice: Client, world: World, name: str) -> None:
    with app.app_context():
        factories.team("platform")
    answer = alice.submit(f"{world.home}/teams", {"name": name})
    assert answer.status_code == 422 and 'id="name-error"' in _text(answer)


def test_readers_know_the_names_of_variables_and_no_values(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        network = factories.environment()
        factories.variable("subnet_tag", "of-the-platform", of=network)
        factories.variable("own_tag", "of-bob", of=network, owner="bob")
    assert "of-the-platform" in _text(bob.get(f"{world.path}/variables"))
    with app.app_context():
        factories.grant(factories.environment(), "bob", Access.READ)
    page = _text(bob.get(f"{world.path}/variables"))
    assert "subnet_tag" in page and "of-the-platform" not in page and "of-bob" in page


def test_an_admin_sees_the_gate_and_cannot_change_it(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        factories.grant(factories.environment(), "bob", Access.ADMIN)
    page = _text(bob.get(f"{world.path}/settings"))
    assert "Save settings" in page and 'name="mfa_level"' not in page and 'name="session_minutes"' not in page
    for sent in ({"mfa_level": "never", "session_minutes": "60"}, {"mfa_level": "never", "session_minutes": "600"}):
        assert bob.submit(f"{world.path}/settings", sent).status_code == 403
    form = {"terraform_directory": "live", "seen_terraform_directory": ""}
    assert bob.submit(f"{world.path}/settings", form).status_code == 303
    with app.app_context():
        assert factories.environment().terraform_directory == "live"


def test_an_unknown_role_is_refused(alice: Client, world: World) -> None:
    assert alice.submit(f"{world.home}/members/bob/role", {"role": "king"}).status_code == 422
