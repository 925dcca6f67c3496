"""What the addresses below /api share: a personal token lets in, and nothing else.

It comes as the password of HTTP Basic, with the person's name. No cookie counts, so no form token is asked either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flask import Blueprint, Response, g, request

from extensions import csrf, db
from models import ApiToken, Environment, Membership, TokenScope
from services import environments, organizations, throttle, tokens
from services.errors import Conflict, Forbidden, Invalid, NotFound, SecondFactorNeeded
from services.storage.sqlite import read_only
from services.throttle import Throttled

log = logging.getLogger(__name__)

#: What a service refuses, everywhere below /api; 503 for the rest.
STATUSES: dict[type[Exception], int] = {
    NotFound: 404,
    Forbidden: 403,
    SecondFactorNeeded: 403,
    Conflict: 409,
    Invalid: 422,
}


class _NoToken(Exception):
    """The request has no token that lets in now."""


def guard(blueprint: Blueprint, answer: Callable[[int, str], Response]) -> None:
    """Let nobody in to the blueprint without a token; ``answer`` makes the refusal of a status and a sentence."""
    csrf.exempt(blueprint)
    blueprint.before_request(_authenticate)
    blueprint.register_error_handler(_NoToken, lambda _error: _refuse(answer))


def _authenticate() -> None:
    """Whose token it is. Until the body is here nothing may write, so that a slow one keeps nobody waiting."""
    read_only.set(True)
    _recognize()
    tokens.used(token())


def _recognize() -> None:
    given = request.authorization
    name, password = (given.username, given.password) if given is not None and given.type == "basic" else ("", "")
    found = tokens.recognize(name or "", password or "")
    if found is None:
        raise _NoToken
    g.token = found


def _refuse(answer: Callable[[int, str], Response]) -> Response:
    db.session.rollback()
    read_only.set(False)
    try:
        throttle.take(throttle.of_address("token"))
    except Throttled as error:
        # A good token is let in all the same: there is nothing to guess, so nobody behind the address is kept out.
        refused = answer(429, str(error))
        refused.headers["Retry-After"] = str(error.waiting)
        return refused
    # Not into the audit log, which would grow with every guess; and what was sent is not told.
    log.warning("request %s: a token was refused, from %s", g.get("request_id", ""), request.remote_addr)
    refused = answer(401, "Give your user name, and a personal API token of yours as the password.")
    refused.headers["WWW-Authenticate"] = 'Basic realm="Lockstep", charset="UTF-8"'
    return refused


def load(organization: str, environment: str) -> tuple[Membership, Environment]:
    """Who, and where; strangers find nothing. A token for reading only reads.

    Raises :class:`NotFound`, which each blueprint answers in its own way, and :class:`Forbidden`.
    """
    membership = organizations.membership(token().user, organization)
    found = environments.environment(membership, environment)
    if token().scope is not TokenScope.QUEUE and request.method not in ("GET", "HEAD"):
        raise Forbidden("This token is for reading only. Nothing was changed.")
    return membership, found


def token() -> ApiToken:
    """The token that the request came with."""
    found: ApiToken = g.token
    return found


def load_with_body(organization: str, environment: str, most: int) -> tuple[Membership, Environment, bytes]:
    """As :func:`load`, with the body of at most so many bytes; from then on the request may write.

    The body is received outside any transaction, for as long as somebody takes to send it. So token and access are
    looked at before it, and again in the transaction that may write.
    """
    load(organization, environment)
    request.max_content_length = most
    db.session.rollback()
    received = request.get_data()
    read_only.set(False)
    _recognize()
    return *load(organization, environment), received
