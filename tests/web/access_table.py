"""Every route and what it answers to each kind of person. test_access.py walks it; a route that is missing fails there.

Addresses hold {names} of things that :func:`furnish` makes. ``data`` is the form of a POST.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask

from models import TokenScope
from policy.lifecycle import RunStatus
from services import tokens
from services.setup import issue_token
from tests import factories

SIGN_IN = 302  # to the sign-in form


@dataclass(frozen=True)
class Row:
    """One route and method. The order of the four answers is owner, member, stranger, anonymous."""

    method: str
    rule: str
    address: str
    answers: tuple[int, int, int, int]
    data: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.rule}"


_ORG = "/terraform/<organization>"
_ENV = f"{_ORG}/environments/<environment>"
_VARIABLES = f"{_ENV}/variables"
_ACME = "/terraform/acme"
_NETWORK = f"{_ACME}/environments/network"
_HERE = f"{_NETWORK}/variables"
_SHELF = f"{_ACME}/environments/shelf/states"
_SHARED = "/settings/organization_variables"
_PANEL = f"{_SHARED}/<organization>/<panel>"
_VARIABLE = {"name": "some_name", "value": "some value", "category": "env"}
_SETTINGS = {"mfa_level": "applies only", "session_minutes": "60"}

#: Members and owners alike; strangers find nothing.
EVERY_MEMBER = (200, 200, 404, SIGN_IN)
MEMBERS_POST = (303, 303, 404, SIGN_IN)
OWNERS_POST = (303, 403, 404, SIGN_IN)

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
    Row("GET", "/login/forgot", "/login/forgot", (404, 404, 404, 404)),
    Row("POST", "/login/forgot", "/login/forgot", (404, 404, 404, 404)),
    Row("GET", f"{_ORG}/signing-in", f"{_ACME}/signing-in", (200, 403, 404, SIGN_IN)),
    Row("POST", f"{_ORG}/signing-in/second-factor", f"{_ACME}/signing-in/second-factor", OWNERS_POST),
    Row("POST", f"{_ORG}/invitations", f"{_ACME}/invitations", (201, 403, 404, SIGN_IN), {"role": "member"}),
    Row("POST", f"{_ORG}/invitations/<int:number>/revoke", f"{_ACME}/invitations/{{invitation}}/revoke", OWNERS_POST),
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
    Row("GET", _ORG, _ACME, EVERY_MEMBER),
    Row("GET", f"{_ORG}/audit", f"{_ACME}/audit", (200, 403, 404, SIGN_IN)),
    Row("GET", f"{_ORG}/audit.<any(csv, jsonl):kind>", f"{_ACME}/audit.csv", (200, 403, 404, SIGN_IN)),
    Row("GET", f"{_ORG}/environments/new", f"{_ACME}/environments/new", (200, 403, 404, SIGN_IN)),
    Row("POST", f"{_ORG}/environments/new", f"{_ACME}/environments/new", OWNERS_POST, {"name": "staging"}),
    Row("GET", f"{_ENV}/settings", f"{_NETWORK}/settings", EVERY_MEMBER),
    Row("POST", f"{_ENV}/settings", f"{_NETWORK}/settings", OWNERS_POST, _SETTINGS),
    Row("POST", f"{_ENV}/settings/lock", f"{_NETWORK}/settings/lock", MEMBERS_POST, {"reason": "Freeze"}),
    Row("POST", f"{_ENV}/settings/unlock", f"{_ACME}/environments/locked/settings/unlock", MEMBERS_POST),
    Row("GET", _SHARED, f"{_SHARED}?organization=acme", EVERY_MEMBER),
    Row("POST", _PANEL, f"{_SHARED}/acme/shared", OWNERS_POST, _VARIABLE),
    Row("POST", f"{_PANEL}/<int:number>", f"{_SHARED}/acme/shared/{{shared}}", OWNERS_POST, _VARIABLE),
    Row("POST", f"{_PANEL}/<int:number>/delete", f"{_SHARED}/acme/shared/{{shared}}/delete", OWNERS_POST),
    Row("GET", _VARIABLES, _HERE, EVERY_MEMBER),
    Row("POST", f"{_VARIABLES}/<panel>", f"{_HERE}/terraform", MEMBERS_POST, _VARIABLE),
    Row("POST", f"{_VARIABLES}/<panel>/<int:number>", f"{_HERE}/environment/{{variable}}", MEMBERS_POST, _VARIABLE),
    Row("POST", f"{_VARIABLES}/<panel>/<int:number>/delete", f"{_HERE}/environment/{{variable}}/delete", MEMBERS_POST),
    Row("GET", f"{_ENV}/states", f"{_NETWORK}/states", EVERY_MEMBER),
    Row("GET", f"{_ENV}/states/<int:number>", f"{_NETWORK}/states/{{state}}", EVERY_MEMBER),
    Row("GET", f"{_ENV}/states/compare", f"{_NETWORK}/states/compare?to={{state}}", EVERY_MEMBER),
    Row("GET", f"{_ENV}/states/<int:number>/rollback", f"{_SHELF}/{{old}}/rollback", (200, 403, 404, SIGN_IN)),
    Row("POST", f"{_ENV}/states/<int:number>/rollback", f"{_SHELF}/{{old}}/rollback", OWNERS_POST,
        {"serial": "1", "seen": "2"}),
    Row("GET", f"{_ENV}/states/upload", f"{_NETWORK}/states/upload", (200, 403, 404, SIGN_IN)),
    Row("POST", f"{_ENV}/states/upload", f"{_NETWORK}/states/upload", (422, 403, 404, SIGN_IN)),
    Row("GET", f"{_ENV}/states/terminal", f"{_NETWORK}/states/terminal", EVERY_MEMBER),
    Row("POST", f"{_ENV}/states/unlock", f"{_SHELF}/unlock", OWNERS_POST, {"lock": "a-lock"}),
    Row("GET", "/settings/tokens", "/settings/tokens", (200, 200, 200, SIGN_IN)),
    Row("POST", "/settings/tokens", "/settings/tokens", (201, 201, 201, SIGN_IN),
        {"name": "laptop", "scope": "read", "days": "30"}),
    Row("POST", "/settings/tokens/<int:number>/revoke", "/settings/tokens/{token_id}/revoke",
        (303, 404, 404, SIGN_IN)),
]  # fmt: skip

_API = "/api/v1/states/<organization>/<environment>"
_NO_TOKEN = (401, 401, 401, 401)
#: Cookies do not count here, whoever comes; tests/web/test_api_states.py comes with tokens.
API = [Row(method, _API, "/api/v1/states/acme/network", _NO_TOKEN) for method in ("GET", "POST", "LOCK", "UNLOCK")]

#: The same routes with something that is one person's own: nobody else finds it, not even an owner.
PERSONAL = [
    Row("POST", "", f"{_SHARED}/acme/personal/{{bobs}}", (404, 303, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_SHARED}/acme/personal/{{bobs}}/delete", (404, 303, 404, SIGN_IN)),
    Row("POST", "", f"{_SHARED}/acme/shared/{{bobs}}", (404, 404, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_HERE}/personal/{{bobs}}", (404, 404, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_HERE}/environment/{{shared}}", (404, 404, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_SHARED}/acme/nonsense", (404, 404, 404, SIGN_IN), _VARIABLE),
]


def furnish(app: Flask, address: str = "") -> dict[str, Any]:
    """Things to point at; their names and numbers."""
    with app.app_context():
        network = factories.environment()
        factories.environment("locked", locked_by_id=factories.person("bob").id, lock_reason="Freeze")
        applied = factories.run(network, RunStatus.APPLIED)
        waiting = factories.run(network, RunStatus.AWAITING_CONFIRMATION)
        shelf = factories.environment("shelf")
        old = factories.state(factories.run(shelf, RunStatus.APPLIED), serial=1)
        factories.state(factories.run(shelf, RunStatus.APPLIED), serial=2)
        if "unlock" in address:
            factories.environment("shelf", state_lock_id="a-lock", state_lock_by_id=factories.person("alice").id)
        return {
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
