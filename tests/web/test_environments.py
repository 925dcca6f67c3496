"""Making an environment, its settings, and the manual lock."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from tests import factories
from tests.factories import World
from tests.support.client import Client

SETTINGS = {
    "mfa_level": "plans and applies",
    "session_minutes": "90",
    "terraform_directory": "live/network/",
    "description": "VPC",
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
    assert alice.submit(f"{world.path}/settings/unlock").status_code == 303
    assert alice.submit(f"{world.path}/settings/unlock").status_code == 409
    assert _environment(app, "locked_by", "lock_reason") == (None, "")


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_lock_needs_a_reason(who: str, world: World, request: pytest.FixtureRequest) -> None:
    client: Client = request.getfixturevalue(who)
    answer = client.submit(f"{world.path}/settings/lock", {"reason": "  "})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert 'id="reason-error"' in page and 'aria-describedby="reason-error reason-hint"' in page
