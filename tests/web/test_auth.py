"""Signing in and out, and changing the password."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent
from tests.factories import PASSWORD, World
from tests.support.client import Client

pytestmark = pytest.mark.usefixtures("world")


def _actions(app: Flask) -> list[tuple[str, str]]:
    with app.app_context():
        return [
            (e.action, e.details.get("user", ""))
            for e in db.session.scalars(select(AuditEvent).order_by(AuditEvent.id))
            if e.action != "audit.chain_begun"
        ]


def _login(client: Client, path: str = "/login", **data: str) -> str:
    answer = client.submit(path, {"username": "alice", "password": PASSWORD, **data})
    assert answer.status_code == 303
    return answer.location


def test_sign_in_leads_home_and_is_recorded(app: Flask, anonymous: Client) -> None:
    assert _login(anonymous) == "/"
    assert _actions(app) == [("session.sign_in", "alice")]


def test_the_page_that_was_asked_for_comes_after_signing_in(anonymous: Client, world: World) -> None:
    there = world.path + "/variables?edit=1"
    to_form = anonymous.get(there).location
    assert to_form.startswith("/login?next=")
    assert _login(anonymous, to_form) == there
    assert anonymous.get(to_form).location == there  # already signed in


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example/",
        "evil",
        "/\t/evil.example",
        "/a\\b",
        "javascript:x",
        "",
    ],
)
def test_no_way_to_another_site(anonymous: Client, path: str) -> None:
    answer = anonymous.submit("/login", {"username": "alice", "password": PASSWORD}, query_string={"next": path})
    assert answer.location == "/"


@pytest.mark.parametrize("name", ["alice", "nobody", ""])
def test_one_sentence_for_every_refusal(app: Flask, anonymous: Client, name: str) -> None:
    answer = anonymous.submit("/login", {"username": name, "password": "a wrong password"})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert "That user name and password do not belong together." in page
    assert f'value="{name}"' in page
    assert "a wrong password" not in page
    assert _actions(app) == [("session.refused", name if name == "alice" else "")]


def test_the_session_is_new_after_signing_in(anonymous: Client) -> None:
    before = anonymous.token()
    assert _login(anonymous) == "/"
    assert anonymous.post("/logout", data={"csrf_token": before}).status_code == 400


def test_kept_signed_in_only_when_asked(anonymous: Client, app: Flask) -> None:
    _login(anonymous)
    assert anonymous.get_cookie("lockstep_remember") is None
    other = app.test_client()
    assert isinstance(other, Client)
    _login(other, remember="on")
    cookie = other.get_cookie("lockstep_remember")
    assert cookie is not None and cookie.http_only and cookie.same_site == "Lax"
    other.delete_cookie("lockstep")
    assert other.get("/settings/password").status_code == 200


def test_sign_out_forgets_the_browser(anonymous: Client) -> None:
    _login(anonymous, remember="on")
    assert anonymous.submit("/logout").location == "/login"
    assert anonymous.get_cookie("lockstep_remember") is None
    assert anonymous.get("/settings/password").status_code == 302


def test_change_of_password_keeps_this_session_and_ends_the_others(app: Flask, alice: Client) -> None:
    other = app.test_client()
    assert isinstance(other, Client)
    _login(other, remember="on")
    new = "another battery horse"
    answer = alice.submit("/settings/password", {"current": PASSWORD, "password": new, "again": new})
    assert answer.status_code == 303
    assert alice.get("/settings/password").status_code == 200
    assert other.get("/settings/password").status_code == 302
    other.sign_in("alice", new)


@pytest.mark.parametrize(
    ("field", "typed", "sentence"),
    [
        ("current", {"current": "wrong"}, "That is not your present password."),
        ("password", {"password": "short", "again": "short"}, "at least 12 characters"),
        ("again", {"again": "something else entirely"}, "not the same"),
    ],
)
def test_refused_password_at_its_field(alice: Client, field: str, typed: dict[str, str], sentence: str) -> None:
    good = {"current": PASSWORD, "password": "another battery horse", "again": "another battery horse"}
    answer = alice.submit("/settings/password", good | typed)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert sentence in page
    assert f'name="{field}" type="password" aria-invalid="true" aria-describedby="{field}-error' in page
    assert "battery" not in page
    assert alice.get("/settings/password").status_code == 200
