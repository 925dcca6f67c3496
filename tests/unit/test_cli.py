"""The operators' commands."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import func, select

from extensions import db
from models import User
from policy.permissions import Role
from services import accounts, doctor, links, organizations
from services.doctor import Finding, Status
from tests import factories

PASSWORD = "correct horse battery"


def run(app: Flask, *arguments: str, typed: str = "") -> tuple[int, str]:
    """The exit code and everything that was printed."""
    done = app.test_cli_runner().invoke(args=arguments, input=typed)
    return done.exit_code, done.output


def create(app: Flask, name: str = "alice", *options: str) -> tuple[int, str]:
    arguments = ("user", "create", name, "--email", "a@acme.example", "--password-stdin", *options)
    return run(app, *arguments, typed=f"{PASSWORD}\n")


def test_a_person_is_created_with_the_password_from_standard_input(app: Flask) -> None:
    assert create(app) == (0, "Created the user alice.\n")
    with app.app_context():
        assert accounts.authenticate("alice", PASSWORD) is not None


def test_a_password_is_asked_for_twice_and_not_shown(app: Flask) -> None:
    arguments = ("user", "create", "alice", "--email", "a@acme.example")
    code, output = run(app, *arguments, typed=f"{PASSWORD}\n{PASSWORD}\n")
    assert code == 0
    assert PASSWORD not in output
    assert run(app, "user", "create", "bob", "--email", "b@acme.example", typed=f"{PASSWORD}\nother\n")[0] == 1


@pytest.mark.parametrize("role", list(Role))
def test_a_person_joins_an_organization(app: Flask, role: Role) -> None:
    assert run(app, "organization", "create", "acme") == (0, "Created the organization acme.\n")
    code, output = create(app, "alice", "--organization", "acme", "--role", role.value)
    assert (code, output) == (0, f"Created the user alice, {role.value} of acme.\n")
    with app.app_context():
        alice = db.session.scalars(select(User)).one()
        assert organizations.membership(alice, "acme").role is role


def test_a_role_is_member_unless_given(app: Flask) -> None:
    run(app, "organization", "create", "acme")
    assert create(app, "alice", "--organization", "acme")[1] == "Created the user alice, member of acme.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("Alice!",), "A user name has lower case letters"),
        (("alice", "--organization", "nowhere"), "There is no organization nowhere."),
        (("alice", "--role", "owner"), "--role goes with --organization."),
        (("alice", "--organization", "acme", "--role", "king"), "Invalid value for '--role'"),
    ],
)
def test_what_is_wrong_is_said_and_nobody_created(app: Flask, arguments: tuple[str, ...], sentence: str) -> None:
    code, output = create(app, *arguments)
    assert code != 0
    assert sentence in output
    assert "Traceback" not in output
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(User)) == 0


def test_a_name_that_is_taken(app: Flask) -> None:
    create(app)
    assert create(app) == (1, "Error: The user name alice is taken.\n")


def test_an_organization_name_that_is_wrong_or_taken(app: Flask) -> None:
    run(app, "organization", "create", "acme")
    assert run(app, "organization", "create", "acme") == (1, "Error: The name acme is taken.\n")
    assert run(app, "organization", "create", "A B")[0] == 1


def test_doctor_prints_aligned_words_and_what_to_do(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("Database", Status.OK, "sqlite"), Finding("Clock", Status.WARNING, "40 s off", "Set it.")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    assert run(app, "doctor") == (
        0,
        "ok       Database        sqlite\nwarning  Clock           40 s off\n                         → Set it.\n",
    )


def test_doctor_fails_on_a_problem(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("Redis", Status.PROBLEM, "away", "Start it.")]))
    assert run(app, "doctor")[0] == 1


def test_an_operator_helps_somebody_in(app: Flask) -> None:
    create(app)
    assert run(app, "user", "password", "alice", "--password-stdin", typed="tangerine submarine\n")[0] == 0
    with app.app_context():
        assert accounts.authenticate("alice", "tangerine submarine") is not None
    code, output = run(app, "user", "reset-link", "alice")
    assert code == 0 and output.startswith("/link/")
    with app.app_context():
        assert links.look_up(output.strip().rpartition("/")[2]).user is not None
    assert run(app, "user", "sign-out", "alice") == (0, "alice is signed out everywhere.\n")
    assert run(app, "user", "second-factor-off", "alice") == (0, "alice has no second factor now.\n")
    assert run(app, "user", "password", "alice", "--password-stdin", typed="password1234\n")[0] == 1
    assert run(app, "user", "sign-out", "nobody") == (1, "Error: There is no user nobody.\n")


def test_an_operator_makes_owners_and_keeps_the_last(app: Flask) -> None:
    with app.app_context():
        factories.member("alice", "acme", Role.OWNER)
        factories.member("bob", "acme", Role.MEMBER)
    code, said = run(app, "organization", "role", "acme", "alice", "member")
    assert code == 1 and "alice is the last owner of acme" in said and "Nothing was changed" in said
    assert run(app, "organization", "role", "acme", "bob", "owner") == (0, "bob is owner of acme now.\n")
    assert run(app, "organization", "role", "acme", "alice", "member")[0] == 0
    assert run(app, "organization", "role", "acme", "carol", "owner") == (1, "Error: No such member.\n")
    with app.app_context():
        assert factories.member("alice").role is Role.MEMBER and factories.member("bob").role is Role.OWNER
