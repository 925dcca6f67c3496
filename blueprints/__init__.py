"""HTTP only: load and authorize → validate a form → one service call → render."""

from __future__ import annotations

from flask import Flask

from blueprints import (
    access,
    api_runs,
    api_states,
    audit,
    auth,
    environments,
    errors,
    headers,
    health,
    links,
    members,
    oidc,
    organizations,
    presentation,
    runs,
    second_factor,
    sessions,
    setup,
    sign_ins,
    states,
    teams,
    tokens,
    variables,
)


def register_blueprints(app: Flask) -> None:
    """Register every blueprint, the error pages, the security headers and the template helpers."""
    for module in (
        auth, sign_ins, second_factor, links, oidc, setup, health, organizations, environments, variables, runs, states,
        tokens, api_states, api_runs,
    ):  # fmt: skip
        app.register_blueprint(module.blueprint)
    for module in (audit, members, teams, access):
        app.register_blueprint(module.blueprint)
    headers.register(app)
    sessions.register(app)
    errors.register(app)
    presentation.register(app)
