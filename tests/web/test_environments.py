"""Making an environment, its settings, and the manual lock."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from extensions import db
from models import AuditEvent, Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Access, Role
from tests import factories
from tests.factories import World
from tests.support.client import Client, form_in

#: What the settings of a new environment are, as its page sends them beside the fields.
SEEN = {"seen_mfa_level": "never", "seen_session_minutes": "60", "seen_terraform_directory": "", "seen_description": ""}
SETTINGS = {
    "mfa_level": "plans and applies",
    "session_minutes": "90",
    "terraform_directory": "live/network/",
    "description": "VPC",
    **SEEN,
}


def _environment(app: Flask, *columns: str) -> tuple[Any, ...]:
    with app.app_context():
        found = factories.environment()
        return tuple(getattr(found, column) for column in columns)


def _text(client: Client, path: str) -> str:
    return unescape(client.get(path).get_data(as_text=True))


def test_a_new_environment(alice: Client, world: World) -> None:
    answer = alice.submit(f"{world.home}/environments/new", {"name": "staging", "description": "Copy"})
    assert (answer.status_code, answer.location) == (303, f"{world.home}/environments/staging/changes/runs")
    assert "Environment staging made." in _text(alice, f"{world.home}/environments/staging/settings")


@pytest.mark.parametrize("name", ["network", "Net work", "", "-a", "x" * 65])
def test_a_refused_name(alice: Client, world: World, name: str) -> None:
    answer = alice.submit(f"{world.home}/environments/new", {"name": name, "description": "Copy"})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert 'id="name-error"' in page and 'value="Copy"' in page


def test_the_level_is_exactly_one_of_three(alice: Client, world: World) -> None:
    page = alice.get(f"{world.path}/settings").get_data(as_text=True)
    assert ">AWS Multi-Factor Authentication</label>" in page
    assert (
        "<option selected>never</option><option>applies only</option><option>plans and applies</option></select>"
        in page
    )


def test_settings_are_saved_with_an_audit_event(app: Flask, alice: Client, world: World) -> None:
    answer = alice.submit(f"{world.path}/settings", SETTINGS)
    assert (answer.status_code, answer.location) == (303, f"{world.path}/settings")
    saved = _environment(app, "mfa_level", "session_seconds", "terraform_directory", "description")
    assert saved == (MfaLevel.PLANS_AND_APPLIES, 5400, "live/network", "VPC")
    page = _text(alice, f"{world.path}/settings")
    assert "Settings saved." in page and "Last saved by alice" in page
    with app.app_context():
        event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "environment.settings")).one()
        assert event.details["changed"]["mfa_level"] == ["never", "plans and applies"]


def test_saving_a_level_says_what_is_missing_and_where_to_set_it(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        factories.variable("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        factories.variable("AWS_SECRET_ACCESS_KEY", "a-secret-access-key", owner="bob")
    alice.submit(f"{world.path}/settings", SETTINGS)
    page = _text(alice, f"{world.path}/settings")
    assert "because AWS_SECRET_ACCESS_KEY and AWS_MFA_SERIAL_NUMBER are not set" in page
    assert '<a href="/settings/organization_variables?organization=acme">organization variables</a>' in page
    assert "Not set for runs that you initiate: <code>AWS_SECRET_ACCESS_KEY</code>" in page  # beside the drop-down
    assert _environment(app, "mfa_level") == (MfaLevel.PLANS_AND_APPLIES,)


def test_nothing_is_missing_for_never(alice: Client, world: World) -> None:
    alice.submit(f"{world.path}/settings", SETTINGS | {"mfa_level": "never"})
    assert "not set" not in _text(alice, f"{world.path}/settings").split("<form")[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mfa_level", "sometimes"),
        ("mfa_level", ""),
        ("session_minutes", "14"),
        ("session_minutes", "2161"),
        ("session_minutes", "an hour"),
        ("session_minutes", ""),
        ("terraform_directory", "../elsewhere"),
        ("description", "x" * 201),
    ],
)
def test_refused_at_its_field(app: Flask, alice: Client, world: World, field: str, value: str) -> None:
    answer = alice.submit(f"{world.path}/settings", SETTINGS | {field: value})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in page and 'aria-invalid="true"' in page
    assert field == "mfa_level" or f'value="{value}"' in page
    assert field == "description" or 'value="VPC"' in page
    assert _environment(app, "mfa_level", "session_seconds") == (MfaLevel.NEVER, 3600)


# -- a page that is out of date ----------------------------------------------------------------------------------------


@pytest.fixture
def olga(app: Flask, world: World) -> Client:
    """Another owner."""
    with app.app_context():
        factories.member("olga", world.organization, Role.OWNER)
    client = app.test_client()
    assert isinstance(client, Client)
    return client.sign_in("olga")


def _open(client: Client, world: World) -> dict[str, str]:
    """The settings page: what its form would send."""
    return form_in(client.get(f"{world.path}/settings").get_data(as_text=True), f"{world.path}/settings")


def _changes(app: Flask) -> list[tuple[str, dict[str, list[str]]]]:
    with app.app_context():
        query = select(AuditEvent).where(AuditEvent.action == "environment.settings").order_by(AuditEvent.id)
        return [(event.actor_name, event.details["changed"]) for event in db.session.scalars(query)]


def test_what_nobody_changed_in_an_old_page_stays_as_others_saved_it(
    app: Flask, alice: Client, olga: Client, world: World
) -> None:
    old = _open(alice, world)
    theirs = {"mfa_level": "plans and applies", "session_minutes": "90", "terraform_directory": "live"}
    assert olga.submit(f"{world.path}/settings", _open(olga, world) | theirs).status_code == 303
    assert alice.submit(f"{world.path}/settings", old | {"description": "VPC"}).status_code == 303
    saved = _environment(app, "mfa_level", "session_seconds", "terraform_directory", "description")
    assert saved == (MfaLevel.PLANS_AND_APPLIES, 5400, "live", "VPC")
    assert _changes(app)[1] == ("alice", {"description": ["", "VPC"]})


@pytest.mark.parametrize(
    ("field", "theirs", "mine", "now"),
    [
        ("mfa_level", "plans and applies", "applies only", "“plans and applies”"),
        ("session_minutes", "30", "120", "“30”"),
        ("terraform_directory", "live", "staging", "“live”"),
        ("description", "The “VPC”", "VPC", "“The “VPC””"),
        ("description", "", "VPC", "empty"),
    ],
)
def test_what_others_changed_meanwhile_is_not_overwritten_unseen(
    app: Flask, alice: Client, olga: Client, world: World, field: str, theirs: str, mine: str, now: str
) -> None:
    with app.app_context():
        factories.environment(description="Network")
    old = _open(alice, world)
    more = {"session_minutes": "45"} if field != "session_minutes" else {"description": "45"}
    assert olga.submit(f"{world.path}/settings", _open(olga, world) | {field: theirs}).status_code == 303
    columns = ("mfa_level", "session_seconds", "terraform_directory", "description")
    before = _environment(app, *columns)
    answer = alice.submit(f"{world.path}/settings", old | more | {field: mine})
    page = unescape(answer.get_data(as_text=True))
    assert answer.status_code == 409
    assert f'id="{field}-error"' in page and f"This is {now} now" in page and "nothing was changed" in page
    assert page.count("-error") == 2, "the one field, and its control that names the sentence"
    assert _environment(app, *columns) == before and len(_changes(app)) == 1
    # What was typed is kept. Who saves again has read what is so now.
    again = form_in(answer.get_data(as_text=True), f"{world.path}/settings")
    assert {name: again[name] for name in (field, *more)} == {field: mine, **more}
    assert alice.submit(f"{world.path}/settings", again).status_code == 303
    assert _open(alice, world)[field] == mine
    assert set(_changes(app)[1][1]) == {name.replace("minutes", "seconds") for name in (field, *more)}


def test_two_who_want_the_same_do_not_collide(app: Flask, alice: Client, olga: Client, world: World) -> None:
    """Nor do the two forms of a double click."""
    old = _open(alice, world)
    for client in (olga, alice, alice):
        assert client.submit(f"{world.path}/settings", old | {"mfa_level": "applies only"}).status_code == 303
    assert _environment(app, "mfa_level") == (MfaLevel.APPLIES_ONLY,)
    assert _changes(app)[1:] == [("alice", {}), ("alice", {})]


@pytest.mark.parametrize("unseen", [{}, {"seen_mfa_level": "sometimes"}, {"seen_mfa_level": ""}])
def test_a_form_that_does_not_say_what_it_showed_lowers_nothing(
    app: Flask, alice: Client, world: World, unseen: dict[str, str]
) -> None:
    """Of a page from before an upgrade, for example."""
    with app.app_context():
        factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES)
    form = {name: value for name, value in SETTINGS.items() if name not in SEEN}
    answer = alice.submit(f"{world.path}/settings", form | unseen | {"mfa_level": "never"})
    page = unescape(answer.get_data(as_text=True))
    assert answer.status_code == 409
    assert "This is “plans and applies” now" in page and 'id="session_minutes-error"' in page
    assert _environment(app, "mfa_level", "session_seconds") == (MfaLevel.PLANS_AND_APPLIES, 3600)
    assert _changes(app) == []


def test_a_refused_form_still_knows_what_its_page_showed(app: Flask, alice: Client, olga: Client, world: World) -> None:
    old = _open(alice, world)
    assert olga.submit(f"{world.path}/settings", old | {"mfa_level": "plans and applies"}).status_code == 303
    answer = alice.submit(f"{world.path}/settings", old | {"session_minutes": "1"})
    assert answer.status_code == 422
    again = form_in(answer.get_data(as_text=True), f"{world.path}/settings") | {"session_minutes": "30"}
    assert alice.submit(f"{world.path}/settings", again).status_code == 303
    assert _environment(app, "mfa_level", "session_seconds") == (MfaLevel.PLANS_AND_APPLIES, 1800)


def test_an_admins_page_overwrites_nothing_unseen_either(app: Flask, alice: Client, bob: Client, world: World) -> None:
    with app.app_context():
        factories.grant(factories.environment(), "bob", Access.ADMIN)
    old = _open(bob, world)
    assert "seen_mfa_level" not in old
    alice.submit(f"{world.path}/settings", SETTINGS)
    assert bob.submit(f"{world.path}/settings", old | {"terraform_directory": "staging"}).status_code == 409
    assert bob.submit(f"{world.path}/settings", old).status_code == 303
    assert _environment(app, "terraform_directory", "description") == ("live/network", "VPC")


def test_members_read_the_values_and_a_crafted_post_changes_nothing(app: Flask, bob: Client, world: World) -> None:
    page = _text(bob, f"{world.path}/settings")
    assert (
        "Only admins of network and owners of acme can change these settings. Its owner is <strong>alice</strong>."
        in page
    )
    assert "<select" not in page and "Save settings" not in page
    answer = bob.submit(f"{world.path}/settings", SETTINGS)
    assert answer.status_code == 403
    assert _environment(app, "mfa_level", "description") == (MfaLevel.NEVER, "")


def test_a_raised_level_reaches_a_run_that_awaits_confirmation(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        factories.run(factories.environment(), RunStatus.AWAITING_CONFIRMATION)
    alice.submit(f"{world.path}/settings", SETTINGS)
    assert "Awaiting authentication" in _text(alice, world.home)


def test_members_lock_and_unlock(app: Flask, alice: Client, bob: Client, world: World) -> None:
    assert bob.submit(f"{world.path}/settings/lock", {"reason": "Freeze until Friday"}).status_code == 303
    page = _text(alice, f"{world.path}/settings")
    assert "Locked by bob" in page and "bob asked to wait: “Freeze until Friday”" in page
    assert alice.submit(f"{world.path}/settings/lock", {"reason": "Mine"}).status_code == 409
    assert _unlock(alice, world, _lock(alice, world)).status_code == 303
    assert _environment(app, "locked_by", "lock_reason") == (None, "")


def _lock(client: Client, world: World) -> dict[str, str]:
    """What the form sends that takes the lock off which the page shows."""
    return form_in(client.get(f"{world.path}/settings").get_data(as_text=True), f"{world.path}/settings/unlock")


def _unlock(client: Client, world: World, form: dict[str, str]) -> TestResponse:
    return client.submit(f"{world.path}/settings/unlock", form)


@pytest.mark.parametrize("who", ["bob", "alice"])
def test_an_old_page_takes_off_no_lock_that_it_did_not_show(
    app: Flask, alice: Client, world: World, who: str, request: pytest.FixtureRequest
) -> None:
    with app.app_context():
        pending = factories.run(factories.environment(), RunStatus.PENDING).id
    alice.submit(f"{world.path}/settings/lock", {"reason": "my change"})
    old = _lock(alice, world)
    with app.app_context():
        factories.environment(locked_by_id=None, locked_at=None, lock_reason="")  # unlocked in another tab
    refused = _unlock(alice, world, old)
    assert refused.status_code == 409 and "is not locked" in refused.get_data(as_text=True)
    client: Client = request.getfixturevalue(who)
    assert client.submit(f"{world.path}/settings/lock", {"reason": "incident, do not touch"}).status_code == 303
    for form in (old, {}):  # {}: of a page from before an upgrade
        refused = _unlock(alice, world, form)
        page = unescape(refused.get_data(as_text=True))
        assert refused.status_code == 409
        assert f"network is locked by {who} now: incident, do not touch. Nothing was changed" in page
    assert _environment(app, "lock_reason") == ("incident, do not touch",)
    with app.app_context():
        assert db.session.get_one(Run, pending).status is RunStatus.PENDING
    assert _unlock(alice, world, _lock(alice, world)).status_code == 303


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_lock_needs_a_reason(who: str, world: World, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(who)
    answer = client.submit(f"{world.path}/settings/lock", {"reason": "  "})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert 'id="reason-error"' in page and 'aria-describedby="reason-error reason-hint"' in page
