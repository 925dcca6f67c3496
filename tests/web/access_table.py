"""Every route and what it answers to each kind of person. test_access.py walks it; a route that is missing fails there.

Addresses hold {names} of things that :func:`furnish` makes. ``data`` is the form of a POST.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask

from policy.lifecycle import RunStatus
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
    Row("GET", "/setup/<token>", "/setup/{token}", (404, 404, 404, 404)),
    Row("POST", "/setup/<token>", "/setup/{token}", (404, 404, 404, 404)),
    Row("GET", "/", "/", (302, 302, 302, SIGN_IN)),
    Row("GET", _ORG, _ACME, EVERY_MEMBER),
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
]  # fmt: skip

#: The same routes with something that is one person's own: nobody else finds it, not even an owner.
PERSONAL = [
    Row("POST", "", f"{_SHARED}/acme/personal/{{bobs}}", (404, 303, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_SHARED}/acme/personal/{{bobs}}/delete", (404, 303, 404, SIGN_IN)),
    Row("POST", "", f"{_SHARED}/acme/shared/{{bobs}}", (404, 404, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_HERE}/personal/{{bobs}}", (404, 404, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_HERE}/environment/{{shared}}", (404, 404, 404, SIGN_IN), _VARIABLE),
    Row("POST", "", f"{_SHARED}/acme/nonsense", (404, 404, 404, SIGN_IN), _VARIABLE),
]


def furnish(app: Flask) -> dict[str, Any]:
    """Things to point at; their names and numbers."""
    with app.app_context():
        network = factories.environment()
        factories.environment("locked", locked_by_id=factories.person("bob").id, lock_reason="Freeze")
        applied = factories.run(network, RunStatus.APPLIED)
        waiting = factories.run(network, RunStatus.AWAITING_CONFIRMATION)
        return {
            "token": issue_token(app.config["LOCKSTEP"].home),
            "shared": factories.variable("owner_tag", "platform").id,
            "variable": factories.variable("some_tag", "network", of=network).id,
            "bobs": factories.variable("bobs_own", "hidden", owner="bob").id,
            "state": factories.state(applied).number,
            "run": waiting.number,
        }
