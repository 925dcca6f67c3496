"""Loading and authorizing in one step: what a person may not know about is not found."""

from __future__ import annotations

from typing import cast

from flask import g
from flask_login import current_user
from htmx_flask import request

from models import Environment, Membership, Run, User
from services import environments, organizations, runs
from services.access import Authority


def person() -> User:
    """Who is signed in; views are behind ``login_required``."""
    return cast(User, current_user._get_current_object())


def load_membership(organization: str) -> Membership:
    """The person's part in the organization of the address; NotFound for strangers. Kept in ``g.membership``."""
    g.membership = organizations.membership(person(), organization)
    return g.membership


def load_environment(organization: str, environment: str) -> tuple[Membership, Environment]:
    """Membership and environment of the address; NotFound for who has no access to it.

    Kept in ``g.environment`` for the layout, and what the person may do there in ``g.authority``.
    """
    membership = load_membership(organization)
    g.authority = environments.enter(membership, environment)
    g.environment = g.authority.environment
    return membership, g.authority.environment


def here() -> Authority:
    """What the person may do in the environment of the address, after it was loaded."""
    return cast(Authority, g.authority)


def load_run(organization: str, environment: str, number: int) -> tuple[Membership, Run]:
    """Membership and run of the address."""
    membership, found = load_environment(organization, environment)
    return membership, runs.run_by_number(found, number)


def is_fragment() -> bool:
    """Whether htmx asks for a part of a page: not for boosted links, not to restore its history."""
    htmx = request.htmx
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request
