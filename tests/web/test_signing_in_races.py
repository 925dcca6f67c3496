"""A sign-in that is under way while the password is changed, or the person is signed out everywhere, leads nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from blueprints import oidc
from extensions import db
from models import AuditEvent, SignIn
from services import accounts, links, members, second_factor, sign_ins, single_sign_on
from tests import factories
from tests.factories import PASSWORD
from tests.support.authenticator import code, enrol
from tests.support.client import Client

pytestmark = pytest.mark.usefixtures("world")

NEW = "another long password"


def _changed_password() -> None:
    accounts.change_password(factories.person("bob"), PASSWORD, NEW)


def _operators_password() -> None:
    accounts.operator_password(factories.person("bob"), NEW)


def _reset_link() -> None:
    link = links.look_up(links.reset_for(factories.member("alice"), "bob"))
    links.new_password(link, NEW)


def _out_everywhere() -> None:
    sign_ins.end_everywhere(factories.person("bob"))


def _removed() -> None:
    members.remove(factories.member("alice"), "bob")


MEANWHILE = [_changed_password, _operators_password, _reset_link, _out_everywhere, _removed]
meanwhile_each = pytest.mark.parametrize("change", MEANWHILE, ids=lambda change: change.__name__.strip("_"))


def once(app: Flask, patch: pytest.MonkeyPatch, place: Any, name: str, change: Callable[[], None]) -> None:
    """Let ``change`` happen at the end of the first call of ``place.name``, as another request would."""
    real = getattr(place, name)

    def call(*arguments: Any, **more: Any) -> Any:
        patch.setattr(place, name, real)
        found = real(*arguments, **more)
        with app.app_context():
            change()
        return found

    patch.setattr(place, name, call)


def signed_in(app: Flask, client: Client) -> bool:
    """Whether the browser's cookies are a session, and bob has one in the list."""
    inside = client.get("/settings/sessions").status_code == 200
    with app.app_context():
        rows = db.session.scalars(select(SignIn).where(SignIn.ended_at.is_(None))).all()
        assert bool([row for row in rows if row.user.name == "bob"]) is inside
    return inside


@meanwhile_each
def test_what_changes_while_the_password_is_computed_ends_the_sign_in(
    app: Flask, anonymous: Client, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    token = anonymous.token()
    once(app, monkeypatch, accounts, "check_password_hash", change)
    form = {"csrf_token": token, "username": "bob", "password": PASSWORD, "remember": "on"}
    answer = anonymous.post("/login", data=form)
    assert answer.status_code == 409 and "Nobody was signed in." in answer.get_data(as_text=True)
    assert not signed_in(app, anonymous)


@meanwhile_each
def test_what_changes_while_a_code_is_looked_at_ends_the_sign_in(
    app: Flask, anonymous: Client, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    device, _ = enrol(app, "bob")
    assert anonymous.submit("/login", {"username": "bob", "password": PASSWORD}).location == "/login/code"
    token = anonymous.token()
    once(app, monkeypatch, second_factor, "check", change)
    answer = anonymous.post("/login/code", data={"csrf_token": token, "code": code(device)})
    assert answer.status_code == 409
    assert not signed_in(app, anonymous)


@meanwhile_each
def test_what_changes_during_single_sign_on_ends_the_sign_in(
    app: Flask, anonymous: Client, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    identity = single_sign_on.Identity("https://id.example.com", "b-1", "", "")
    with app.app_context():
        single_sign_on.connect(factories.person("bob"), identity)
    once(app, monkeypatch, single_sign_on, "person", change)
    monkeypatch.setattr(oidc, "_configured", lambda: None)
    monkeypatch.setattr(single_sign_on, "finish", lambda *_, **__: identity)
    with anonymous.session_transaction() as session:
        kept = {"state": "s", "nonce": "n", "verifier": "v", "purpose": "sign-in", "onward": "/", "user": None}
        session["journey"] = {**kept, "at": time.time()}
    answer = anonymous.get("/login/single-sign-on/back?state=s&code=c")
    assert answer.status_code == 409
    assert not signed_in(app, anonymous)


@meanwhile_each
def test_a_proof_with_the_former_password_proves_nothing(
    app: Flask, bob: Client, monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    token = bob.token()
    once(app, monkeypatch, accounts, "check_password_hash", change)
    answer = bob.post("/settings/sessions/prove", data={"csrf_token": token, "password": PASSWORD})
    assert answer.status_code in (409, 422)
    with app.app_context():
        assert "session.proved" not in db.session.scalars(select(AuditEvent.action)).all()
    assert not signed_in(app, bob)


def test_who_is_signed_out_while_changing_the_password_changes_nothing(
    app: Flask, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bob.token()
    once(app, monkeypatch, accounts, "check_password_hash", _out_everywhere)
    form = {"csrf_token": token, "current": PASSWORD, "password": NEW, "again": NEW}
    assert bob.post("/settings/password", data=form).status_code == 422
    assert not signed_in(app, bob)
    with app.app_context():
        assert accounts.authenticate("bob", PASSWORD) is not None


def test_a_new_password_signs_in_nobody_who_was_signed_out_right_after_it(
    app: Flask, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bob.token()
    once(app, monkeypatch, accounts, "change_password", _out_everywhere)
    form = {"csrf_token": token, "current": PASSWORD, "password": NEW, "again": NEW}
    assert bob.post("/settings/password", data=form).status_code == 409
    assert not signed_in(app, bob)


def test_the_cookie_names_the_epoch_that_was_proved(
    app: Flask, anonymous: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed out everywhere right after the row was made: the answer is a redirect, and the cookie is worth nothing."""
    token = anonymous.token()
    once(app, monkeypatch, sign_ins, "begin", _out_everywhere)
    anonymous.post("/login", data={"csrf_token": token, "username": "bob", "password": PASSWORD})
    assert not signed_in(app, anonymous)
