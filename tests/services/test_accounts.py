"""Accounts: passwords are computed while nobody waits for the database, and the audit log keeps no mistyped secret."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug import security

from extensions import db
from models import AuditEvent, Organization, User
from policy.permissions import Role
from services import accounts, setup, variables
from services.errors import Invalid, LockstepError, NotFound
from services.variables import Place
from tests import factories
from tests.factories import PASSWORD
from tests.support import lab

FIRST = {"name": "dora", "email": "dora@example.com", "password": "a long enough one", "organization": "first"}


@pytest.fixture
def computed(here: Flask, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each computation of a password whether a transaction was open meanwhile."""
    found: list[bool] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            found.append(db.session().in_transaction())
            return real(*arguments, **more)

        return call

    monkeypatch.setattr(accounts, "check_password_hash", watched(security.check_password_hash))
    monkeypatch.setattr(accounts, "generate_password_hash", watched(security.generate_password_hash))
    return found


def test_no_transaction_is_open_while_a_password_is_computed(here: Flask, computed: list[bool]) -> None:
    found = accounts.authenticate("alice", PASSWORD)
    assert found is not None and found.user.name == "alice"
    assert accounts.authenticate("alice", "wrong") is None
    assert accounts.authenticate("nobody", PASSWORD) is None
    accounts.change_password(found.user, PASSWORD, "another long password")
    factories.organization("acme")  # a transaction that is open from before
    accounts.create_user("erin", "erin@example.com", "a long enough one")
    assert len(computed) >= 6
    assert not any(computed)
    assert accounts.authenticate("alice", "another long password") is not None


def test_the_first_owner_is_made_without_keeping_others_waiting(app: Flask, computed: list[bool]) -> None:
    home: Path = app.config["LOCKSTEP"].home
    for table in reversed(db.metadata.sorted_tables):
        db.session.execute(table.delete())
    db.session.commit()
    setup.make_first_owner(home, setup.issue_token(home), **FIRST)
    assert computed == [False]


def test_a_password_changed_twice_at_once_is_changed_once(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = factories.person("alice")
    real = security.generate_password_hash

    def meanwhile(*arguments: Any, **more: Any) -> str:
        monkeypatch.undo()
        accounts.change_password(factories.person("alice"), PASSWORD, "the password of the other")
        return real(*arguments, **more)

    monkeypatch.setattr(accounts, "generate_password_hash", meanwhile)
    with pytest.raises(Invalid, match="not your present password"):
        accounts.change_password(alice, PASSWORD, "another long password")
    assert accounts.authenticate("alice", "the password of the other") is not None


def test_a_name_that_no_account_has_is_not_kept(here: Flask) -> None:
    """It may be a password, typed into the wrong field."""
    for name in ("alice", "correct horse battery staple"):
        accounts.record_refusal(name)
    told = [event.details for event in db.session.query(AuditEvent).order_by(AuditEvent.id)]
    assert told == [{"user": "alice"}, {}]


def test_the_audit_log_does_not_name_personal_variables(here: Flask) -> None:
    """Owners read it, and what a person keeps for themselves is nobody else's to know."""
    factories.variable("MY_OWN", "value", owner="bob")
    own = factories.variable("MY_OWN_HERE", "value", of=factories.environment(), owner="bob")
    assert own.owner_id is not None
    place = Place(factories.organization("acme"), factories.environment(), factories.person("bob"))
    variables.delete(factories.member("bob"), place, own.id, own.mark)
    factories.variable("OURS", "value")
    events = db.session.query(AuditEvent).filter(AuditEvent.action.startswith("variable.")).order_by(AuditEvent.id)
    assert [(event.action, event.details.get("name"), event.details["scope"]) for event in events] == [
        ("variable.create", None, "personal organization"),
        ("variable.create", None, "personal environment"),
        ("variable.delete", None, "personal environment"),
        ("variable.create", "OURS", "organization"),
    ]


# -- the first owner ---------------------------------------------------------------------------------------------------


@pytest.fixture
def empty(app: Flask) -> Flask:
    return app


def test_two_first_owners_at_once_are_one(empty: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    home: Path = empty.config["LOCKSTEP"].home
    with empty.app_context():
        token = setup.issue_token(home)
    together, real = threading.Barrier(2), setup.check_token

    def check(*arguments: Any) -> None:
        real(*arguments)
        db.session.rollback()
        together.wait(20)

    monkeypatch.setattr(setup, "check_token", check)

    def make(name: str) -> Callable[[], object]:
        form = FIRST | {"name": name, "organization": f"{name}-s"}
        return lambda: setup.make_first_owner(home, token, **form)

    with empty.app_context():
        crowd = [lab.Beside(empty, make(name)) for name in ("dora", "erin")]
        errors: list[LockstepError] = []
        for one in crowd:
            try:
                one.result()
            except LockstepError as error:
                errors.append(error)
        assert [type(error) for error in errors] == [NotFound]
        assert db.session.query(User).count() == 1
        assert db.session.query(Organization).count() == 1
        db.session.remove()
    assert not [path.name for path in home.iterdir() if path.name.startswith("setup_token")]


def test_a_refused_field_leaves_the_link_as_it_was(empty: Flask) -> None:
    home: Path = empty.config["LOCKSTEP"].home
    with empty.app_context():
        token = setup.issue_token(home)
        with pytest.raises(Invalid):
            setup.make_first_owner(home, token, **FIRST | {"organization": "No Slug"})
        db.session.rollback()
        assert setup.make_first_owner(home, token, **FIRST).user.name == "dora"
        assert factories.member("dora", "first").role is Role.OWNER
        db.session.remove()
