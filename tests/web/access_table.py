"""Every route and what it answers to each kind of person. test_access.py walks it; a route that is missing fails there.

Addresses hold {names} of things that :func:`furnish` makes. ``data`` is the form of a POST.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flask import Flask
from sqlalchemy import select, update

from extensions import db
from models import Grant, TokenScope, Variable
from policy.lifecycle import RunStatus
from policy.permissions import Access, Role
from services import tokens, unkept
from services.setup import issue_token
from tests import factories

SIGN_IN = 302  # to the sign-in form

#: Who tries each route, and their part in acme; None is nobody signed in. The order of the answers in a row.
PEOPLE = {
    "owner": "alice",
    "admin": "ada",
    "writer": "bob",
    "reader": "rita",
    "member without access": "nick",
    "stranger": "carol",  # owns another organization
    "anonymous": None,
}


@dataclass(frozen=True)
class Row:
    """One route and method with an answer for each of PEOPLE, or four: owner, every member, stranger, anonymous."""

    method: str
    rule: str
    address: str
    answers: tuple[int, ...]
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Four answers are written out."""
        if len(self.answers) == 4:
            owner, member, stranger, anonymous = self.answers
            object.__setattr__(self, "answers", (owner, *[member] * 4, stranger, anonymous))
        assert len(self.answers) == len(PEOPLE), self

    def __str__(self) -> str:
        return f"{self.method} {self.rule}"

    def of(self, who: str) -> int:
        """The answer to one of PEOPLE."""
        return self.answers[list(PEOPLE).index(who)]


# The patterns: who gets ``status``. Everybody else of the organization is refused, or finds nothing without access.


def members(status: int) -> tuple[int, ...]:
    """Who belongs to the organization, with access or without."""
    return (status, status, status, status, status, 404, SIGN_IN)


def owners(status: int) -> tuple[int, ...]:
    """In the organization."""
    return (status, 403, 403, 403, 403, 404, SIGN_IN)


def readers(status: int) -> tuple[int, ...]:
    """In an environment: read access and more."""
    return (status, status, status, status, 404, 404, SIGN_IN)


def writers(status: int) -> tuple[int, ...]:
    """In an environment: write access and more."""
    return (status, status, status, 403, 404, 404, SIGN_IN)


def admins(status: int) -> tuple[int, ...]:
    """In an environment: its admins and the owners."""
    return (status, status, 403, 403, 404, 404, SIGN_IN)


def owners_there(status: int) -> tuple[int, ...]:
    """In an environment: the owners alone."""
    return (status, 403, 403, 403, 404, 404, SIGN_IN)


def only_bob(status: int) -> tuple[int, ...]:
    """What is bob's own."""
    return (404, 404, status, 404, 404, 404, SIGN_IN)


_ORG = "/terraform/<organization>"
_ENV = f"{_ORG}/environments/<environment>"
_VARIABLES = f"{_ENV}/variables"
_ACME = "/terraform/acme"
_NETWORK = f"{_ACME}/environments/network"
_HERE = f"{_NETWORK}/variables"
_SHELF = f"{_ACME}/environments/shelf/states"
_SHARED = "/settings/organization_variables"
_TEAM = f"{_ORG}/teams/<int:number>"
_PLATFORM = f"{_ACME}/teams/{{team}}"
_PANEL = f"{_SHARED}/<organization>/<panel>"
_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
_SEEN = {"seen": _LONG_AGO.isoformat()}
_VARIABLE = {"name": "some_name", "value": "some value", "category": "env", **_SEEN}
_GATE = {"mfa_level": "applies only", "session_minutes": "60", "seen_mfa_level": "never", "seen_session_minutes": "60"}

PAGES = [
    Row("GET", "/static/<path:filename>", "/static/app.css", (200, 200, 200, 200)),
    Row("GET", "/health", "/health", (200, 200, 200, 200)),
    Row("GET", "/login", "/login", (303, 303, 303, 200)),
    Row("POST", "/login", "/login", (303, 303, 303, 422), {"username": "alice", "password": "wrong"}),
    Row("POST", "/logout", "/logout", (303, 303, 303, 303)),
    Row("GET", "/settings/password", "/settings/password", (200, 200, 200, SIGN_IN)),
    Row("POST", "/settings/password", "/settings/password", (422, 422, 422, SIGN_IN)),
    Row("GET", "/login/code", "/login/code", (303, 303, 303, 303)),
    Row("POST", "/login/code", "/login/code", (303, 303, 303, 303)),
    Row("GET", "/settings/second-factor", "/settings/second-factor", (200, 200, 200, SIGN_IN)),
    Row("POST", "/settings/second-factor/begin", "/settings/second-factor/begin", (303, 303, 303, SIGN_IN)),
    Row("POST", "/settings/second-factor/confirm", "/settings/second-factor/confirm", (422, 422, 422, SIGN_IN)),
    Row("POST", "/settings/second-factor/codes", "/settings/second-factor/codes", (422, 422, 422, SIGN_IN)),
    Row("POST", "/settings/second-factor/off", "/settings/second-factor/off", (422, 422, 422, SIGN_IN)),
    Row("GET", "/link/<secret>", "/link/nonsense", (303, 303, 303, 303)),
    Row("GET", "/link", "/link", (404, 404, 404, 404)),
    Row("POST", "/link", "/link", (404, 404, 404, 404)),
    Row("GET", "/login/single-sign-on", "/login/single-sign-on", (404, 404, 404, 404)),
    Row("GET", "/login/single-sign-on/back", "/login/single-sign-on/back", (404, 404, 404, 404)),
    Row("GET", "/settings/single-sign-on", "/settings/single-sign-on", (404, 404, 404, SIGN_IN)),
    Row("POST", "/settings/single-sign-on/disconnect", "/settings/single-sign-on/disconnect",
        (404, 404, 404, SIGN_IN)),
    Row("GET", "/login/forgot", "/login/forgot", (404, 404, 404, 404)),
    Row("POST", "/login/forgot", "/login/forgot", (404, 404, 404, 404)),
    Row("GET", f"{_ORG}/signing-in", f"{_ACME}/signing-in", owners(200)),
    Row("POST", f"{_ORG}/signing-in/second-factor", f"{_ACME}/signing-in/second-factor", owners(303)),
    Row("POST", f"{_ORG}/invitations", f"{_ACME}/invitations", owners(201), {"role": "member"}),
    Row("POST", f"{_ORG}/invitations/<int:number>/revoke", f"{_ACME}/invitations/{{invitation}}/revoke", owners(303)),
    Row("POST", f"{_ORG}/signing-in/<name>/reset-link", f"{_ACME}/signing-in/bob/reset-link",
        (201, 403, 404, SIGN_IN)),
    Row("POST", f"{_ORG}/signing-in/<name>/second-factor", f"{_ACME}/signing-in/bob/second-factor",
        (409, 403, 404, SIGN_IN)),
    Row("GET", "/settings/sessions", "/settings/sessions", (200, 200, 200, SIGN_IN)),
    Row("POST", "/settings/sessions/<int:number>/revoke", "/settings/sessions/{alices}/revoke",
        (303, 404, 404, SIGN_IN)),
    Row("POST", "/settings/sessions/end", "/settings/sessions/end", (303, 303, 303, SIGN_IN)),
    Row("GET", "/settings/sessions/prove", "/settings/sessions/prove", (200, 200, 200, SIGN_IN)),
    Row("POST", "/settings/sessions/prove", "/settings/sessions/prove", (303, 303, 303, SIGN_IN),
        {"password": factories.PASSWORD}),
    Row("GET", "/setup/<token>", "/setup/{token}", (404, 404, 404, 404)),
    Row("POST", "/setup/<token>", "/setup/{token}", (404, 404, 404, 404)),
    Row("GET", "/", "/", (302, 302, 302, SIGN_IN)),
    Row("GET", _ORG, _ACME, members(200)),
    Row("GET", f"{_ORG}/members", f"{_ACME}/members", members(200)),
    Row("POST", f"{_ORG}/members/<person>/role", f"{_ACME}/members/{{person}}/role", owners(303), {"role": "owner"}),
    Row("POST", f"{_ORG}/members/<person>/remove", f"{_ACME}/members/{{person}}/remove", owners(303)),
    # The only owner stays.
    Row("POST", f"{_ORG}/members/leave", f"{_ACME}/members/leave", (409, 303, 404, SIGN_IN)),
    Row("GET", f"{_ORG}/teams", f"{_ACME}/teams", members(200)),
    Row("POST", f"{_ORG}/teams", f"{_ACME}/teams", owners(303), {"name": "on-call"}),
    Row("GET", _TEAM, _PLATFORM, members(200)),
    Row("POST", f"{_TEAM}/name", f"{_PLATFORM}/name", owners(303), {"name": "on-call", "team": "platform"}),
    Row("POST", f"{_TEAM}/delete", f"{_PLATFORM}/delete", owners(303), {"team": "platform"}),
    Row("POST", f"{_TEAM}/members", f"{_PLATFORM}/members", owners(303), {"person": "nick", "team": "platform"}),
    Row("POST", f"{_TEAM}/members/<person>/remove", f"{_PLATFORM}/members/{{teammate}}/remove", owners(303),
        {"team": "platform"}),
    Row("GET", f"{_ENV}/access", f"{_NETWORK}/access", admins(200)),
    Row("POST", f"{_ENV}/access", f"{_NETWORK}/access", admins(303), {"holder": "person:nick", "access": "write"}),
    Row("POST", f"{_ENV}/access/<int:number>", f"{_NETWORK}/access/{{grant}}", admins(303),
        {"holder": "person:rita", "access": "write", "seen": "read"}),
    Row("POST", f"{_ENV}/access/<int:number>/remove", f"{_NETWORK}/access/{{grant}}/remove", admins(303),
        {"holder": "person:rita"}),
    Row("GET", f"{_ORG}/audit", f"{_ACME}/audit", owners(200)),
    Row("GET", f"{_ORG}/audit.<any(csv, jsonl):kind>", f"{_ACME}/audit.csv", owners(200)),
    Row("GET", f"{_ORG}/environments/new", f"{_ACME}/environments/new", owners(200)),
    Row("POST", f"{_ORG}/environments/new", f"{_ACME}/environments/new", owners(303), {"name": "staging"}),
    Row("GET", f"{_ENV}/settings", f"{_NETWORK}/settings", readers(200)),
    Row("POST", f"{_ENV}/settings", f"{_NETWORK}/settings", admins(303),
        {"description": "Subnets", "seen_description": ""}),
    Row("POST", f"{_ENV}/settings/lock", f"{_NETWORK}/settings/lock", writers(303), {"reason": "Freeze"}),
    Row("POST", f"{_ENV}/settings/unlock", f"{_ACME}/environments/locked/settings/unlock", writers(303),
        {"lock": f"bob {_LONG_AGO}"}),
    Row("POST", f"{_ENV}/settings/go-on", f"{_ACME}/environments/locked/settings/go-on", writers(303), {"run": "1"}),
    Row("GET", _SHARED, f"{_SHARED}?organization=acme", members(200)),
    Row("POST", _PANEL, f"{_SHARED}/acme/shared", owners(303), _VARIABLE),
    Row("POST", f"{_PANEL}/<int:number>", f"{_SHARED}/acme/shared/{{shared}}", owners(303), _VARIABLE),
    Row("POST", f"{_PANEL}/<int:number>/delete", f"{_SHARED}/acme/shared/{{shared}}/delete", owners(303), _SEEN),
    Row("GET", _VARIABLES, _HERE, readers(200)),
    Row("POST", f"{_VARIABLES}/<panel>", f"{_HERE}/terraform", writers(303), _VARIABLE),
    Row("POST", f"{_VARIABLES}/<panel>/<int:number>", f"{_HERE}/environment/{{variable}}", writers(303), _VARIABLE),
    Row("POST", f"{_VARIABLES}/<panel>/<int:number>/delete", f"{_HERE}/environment/{{variable}}/delete", writers(303),
        _SEEN),
    Row("GET", f"{_ENV}/states", f"{_NETWORK}/states", readers(200)),
    Row("GET", f"{_ENV}/states/<int:number>", f"{_NETWORK}/states/{{state}}", writers(200)),
    Row("GET", f"{_ENV}/states/compare", f"{_NETWORK}/states/compare?to={{state}}", readers(200)),
    Row("GET", f"{_ENV}/states/<int:number>/rollback", f"{_SHELF}/{{old}}/rollback", admins(200)),
    Row("POST", f"{_ENV}/states/<int:number>/rollback", f"{_SHELF}/{{old}}/rollback", admins(303),
        {"serial": "1", "seen": "2"}),
    Row("GET", f"{_ENV}/states/upload", f"{_NETWORK}/states/upload", admins(200)),
    Row("POST", f"{_ENV}/states/upload", f"{_NETWORK}/states/upload", admins(422)),
    Row("GET", f"{_ENV}/states/terminal", f"{_NETWORK}/states/terminal", readers(200)),
    Row("POST", f"{_ENV}/states/unlock", f"{_SHELF}/unlock", admins(303), {"lock": "a-lock"}),
    Row("GET", "/settings/tokens", "/settings/tokens", (200, 200, 200, SIGN_IN)),
    Row("POST", "/settings/tokens", "/settings/tokens", (201, 201, 201, SIGN_IN),
        {"name": "laptop", "scope": "read", "days": "30"}),
    Row("POST", "/settings/tokens/<int:number>/revoke", "/settings/tokens/{token_id}/revoke",
        (303, 404, 404, SIGN_IN)),
]  # fmt: skip

_API = "/api/v1/states/<organization>/<environment>"
_API_RUNS = "/api/v1/runs/<organization>/<environment>"
_NO_TOKEN = (401, 401, 401, 401)
#: Cookies do not count here, whoever comes; TOKENS come with one.
API = [
    *(
        Row(method, rule, address, _NO_TOKEN)
        for rule, address in (
            (_API, "/api/v1/states/acme/network"),
            ("/api/v1/states/", "/api/v1/states"),
            ("/api/v1/states/<path:wrong>", "/api/v1/states/acme"),
        )
        for method in ("GET", "POST", "LOCK", "UNLOCK")
    ),
    Row("POST", _API_RUNS, "/api/v1/runs/acme/network", _NO_TOKEN),
    Row("GET", f"{_API_RUNS}/<int:number>", "/api/v1/runs/acme/network/1", _NO_TOKEN),
]

_STATE = b'{"version": 4, "serial": 9, "lineage": "8a2f", "terraform_version": "1.11.4", "resources": []}'
_LOCK_INFO = b'{"ID": "of-a-test", "Operation": "OperationTypeApply", "Who": "somebody@laptop"}'
_STATES, _RUNS = "/api/v1/states/acme/shelf", "/api/v1/runs/acme/shelf"
#: Of states nobody gets a 404 (docs/adr/0008).
_WRITERS, _NOBODY = (200, 200, 200, 403, 403, 403), (403,) * 6
_READERS, _NONE = (200, 200, 200, 200, 404, 404), (403, 403, 403, 403, 404, 404)
#: What each route answers to tokens: method, address, body, answers with scope queue, answers with scope read. PEOPLE
#: but anonymous.
TOKENS = [
    ("GET", _STATES, b"", _WRITERS, _WRITERS),
    ("POST", _STATES, _STATE, _WRITERS, _NOBODY),
    ("LOCK", _STATES, _LOCK_INFO, _WRITERS, _NOBODY),
    ("UNLOCK", _STATES, b"", _WRITERS, _NOBODY),
    *(
        (method, address, b"", _NOBODY, _NOBODY)
        for address in ("/api/v1/states", "/api/v1/states/acme")
        for method in ("GET", "POST", "LOCK", "UNLOCK")
    ),
    ("POST", _RUNS, b"", (201, 201, 201, 403, 404, 404), _NONE),
    ("GET", f"{_RUNS}/1", b"", _READERS, _READERS),
]

#: The same routes with something else: a person's own, which nobody else finds, not even an owner; and the gate.
PERSONAL = [
    Row("POST", "", f"{_SHARED}/acme/personal/{{bobs}}", only_bob(303), _VARIABLE),
    Row("POST", "", f"{_SHARED}/acme/personal/{{bobs}}/delete", only_bob(303), _SEEN),
    Row("POST", "", f"{_SHARED}/acme/shared/{{bobs}}", members(404), _VARIABLE),
    Row("POST", "", f"{_HERE}/personal/{{bobs}}", members(404), _VARIABLE),
    Row("POST", "", f"{_HERE}/environment/{{shared}}", members(404), _VARIABLE),
    Row("POST", "", f"{_SHARED}/acme/nonsense", members(404), _VARIABLE),
    # The gate is the owners', whatever else an admin may set.
    Row("POST", "", f"{_NETWORK}/settings", owners_there(303), _GATE),
    Row("POST", "", f"{_NETWORK}/settings", owners_there(422), {**_GATE, "session_minutes": "1"}),
]


def furnish(app: Flask) -> dict[str, Any]:
    """Things to point at, their names and numbers, and the people of PEOPLE who are not in the world yet."""
    with app.app_context():
        network = factories.environment()
        bob = factories.person("bob").id
        factories.environment("locked", locked_by_id=bob, locked_at=_LONG_AGO, lock_reason="Freeze")
        unkept.hold(
            factories.run(factories.environment("locked"), RunStatus.ERRORED),
            unkept.Left("It stays there.", None, "", ""),
        )
        applied = factories.run(network, RunStatus.APPLIED)
        waiting = factories.run(network, RunStatus.AWAITING_CONFIRMATION)
        shelf = factories.environment("shelf")
        old = factories.state(factories.run(shelf, RunStatus.APPLIED), serial=1)
        factories.state(factories.run(shelf, RunStatus.APPLIED), serial=2)
        team, grant = _let_in()
        names = {
            "person": "nick",
            "teammate": "ada",
            "team": team,
            "grant": grant,
            "old": old.number,
            "token_id": tokens.create(factories.person("alice"), "ci", TokenScope.READ, None)[0].id,
            "alices": factories.sign_in("alice").id,
            "invitation": factories.invitation().id,
            "token": issue_token(app.config["LOCKSTEP"].home),
            "shared": factories.variable("owner_tag", "platform").id,
            "variable": factories.variable("some_tag", "network", of=network).id,
            "bobs": factories.variable("bobs_own", "hidden", owner="bob").id,
            "state": factories.state(applied).number,
            "run": waiting.number,
        }
        db.session.execute(update(Variable).values(updated_at=_LONG_AGO))
        db.session.commit()
        return names


def _let_in() -> tuple[int, int]:
    """Ada is an admin by her team, and has less of her own; nick has access to nothing. The team, and rita's grant."""
    factories.member("ada", role=Role.MEMBER, access=Access.READ)
    factories.member("rita", role=Role.MEMBER, access=Access.READ)
    factories.member("nick", role=Role.MEMBER, access=None)
    platform = factories.team("platform", "ada")
    for name in ("network", "locked", "shelf"):
        factories.grant(factories.environment(name), platform, Access.ADMIN)
    mine = {"environment_id": factories.environment().id, "user_id": factories.person("rita").id}
    return platform.id, db.session.scalars(select(Grant.id).filter_by(**mine)).one()


def abroad(app: Flask) -> dict[str, Any]:
    """The same names and numbers in carol's organization, none of which acme has too; and ``environment``."""
    with app.app_context():
        there = factories.environment("abroad", "other", run_counter=70)
        theirs = factories.team("theirs", "carol", of="other")
        factories.grant(there, theirs, Access.WRITE)
        run = factories.run(there, RunStatus.AWAITING_CONFIRMATION, by="carol")
        state = factories.state(run)
        state.number = 77
        db.session.commit()
        carols = factories.variable("carols", "hidden", organization_name="other", owner="carol").id
        return {
            "environment": "abroad",
            "person": "carol",
            "teammate": "carol",
            "team": theirs.id,
            "grant": db.session.scalars(select(Grant.id).filter_by(environment_id=there.id)).one(),
            "old": 77,
            "state": 77,
            "run": run.number,
            "token_id": tokens.create(factories.person("carol"), "ci", TokenScope.READ, None)[0].id,
            "alices": factories.sign_in("carol").id,
            "invitation": factories.invitation("carol", "other").id,
            "token": "of-another",
            "shared": factories.variable("tag", "other", organization_name="other", by="carol").id,
            "variable": factories.variable("tag", "other", of=there, organization_name="other", by="carol").id,
            "bobs": carols,
        }
