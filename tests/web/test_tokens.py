"""The page of a person's API tokens."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import ApiToken, AuditEvent, TokenScope
from services import clock, tokens
from tests import factories
from tests.factories import World
from tests.support.client import Client

PAGE = "/settings/tokens"
FORM = {"name": " my  laptop ", "scope": "queue", "days": "90"}


def kept(app: Flask) -> list[ApiToken]:
    with app.app_context():
        return list(db.session.scalars(select(ApiToken).order_by(ApiToken.id)))


def text(client: Client, path: str = PAGE) -> str:
    return client.get(path).get_data(as_text=True)


def test_a_token_is_shown_once_and_stored_as_a_digest(app: Flask, bob: Client) -> None:
    assert "You have no tokens." in text(bob)
    answer = bob.submit(PAGE, FORM)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    [token] = re.findall(r"lsp_[A-Za-z0-9_-]{43}", answer.get_data(as_text=True))
    [row] = kept(app)
    assert row.digest == hashlib.sha256(token.encode()).hexdigest()
    assert token.startswith(row.start) and len(row.start) == 10
    assert (row.name, row.scope) == ("my laptop", TokenScope.QUEUE)
    assert row.expires_at is not None and timedelta(days=89) < row.expires_at - clock.now() <= timedelta(days=90)
    assert token not in text(bob) and row.start in text(bob)
    assert not any(token in value for _, value in answer.headers)
    with app.app_context():
        event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "token.create")).one()
        assert event.actor_name == "bob" and event.details["name"] == "my laptop"
        assert token not in str(event.details)


def test_one_that_never_expires(app: Flask, bob: Client) -> None:
    assert bob.submit(PAGE, FORM | {"days": ""}).status_code == 201
    assert kept(app)[0].expires_at is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", " "), ("name", "x" * 65), ("days", "7"), ("days", "x"), ("scope", "admin"), ("scope", "")],
)
def test_refused_at_its_field(app: Flask, bob: Client, field: str, value: str) -> None:
    answer = bob.submit(PAGE, FORM | {field: value})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in page and "lsp_" not in page
    assert kept(app) == []


def test_not_more_than_anybody_can_look_through(app: Flask, bob: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_TOKENS", 1)
    assert [bob.submit(PAGE, FORM).status_code for _ in range(2)] == [201, 422]


def test_revoking_is_for_the_person_alone(app: Flask, alice: Client, bob: Client, world: World) -> None:
    bob.submit(PAGE, FORM)
    [row] = kept(app)
    assert "my laptop" not in text(alice)
    assert alice.submit(f"{PAGE}/{row.id}/revoke").status_code == 404
    assert bob.submit(f"{PAGE}/{row.id}/revoke").status_code == 303
    assert "my laptop is revoked" in text(bob) and "You have no tokens." in text(bob)
    assert bob.submit(f"{PAGE}/{row.id}/revoke").status_code == 409
    with app.app_context():
        events = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "token.revoke"))
        assert [event.actor_name for event in events] == ["bob"]


def test_an_expired_one_says_so(app: Flask, bob: Client) -> None:
    with app.app_context():
        token, _ = tokens.create(factories.person("bob"), "old", TokenScope.READ, 30)
        token.expires_at = clock.now() - timedelta(days=1)
        db.session.commit()
    assert "expired <time" in text(bob)


def test_the_page_tells_what_each_scope_can_do_and_how(bob: Client) -> None:
    page = text(bob)
    there = "http://localhost/api/v1/runs/ORGANIZATION/ENVIRONMENT"
    assert f"curl -u bob {there}/1</pre>" in page
    assert f'curl -u bob -d "message=Nightly check" {there}</pre>' in page
    assert "None authenticates or confirms a run, or changes the MFA level" in page


def test_the_account_menu_leads_there(bob: Client, world: World) -> None:
    assert f'href="{PAGE}"' in text(bob, world.home)
