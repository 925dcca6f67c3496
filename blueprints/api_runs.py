"""Runs for scripts: queue a plan, and read how a run stands.

A personal token lets in (blueprints/token_access.py). Nothing here confirms, authenticates, cancels or sets a level:
that takes a person at a page. Answers are JSON; a refusal is ``{"error": sentence}``.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, current_app, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from blueprints import run_steps, token_access
from extensions import db
from models import Run
from policy.permissions import Permission
from services import configurations, run_report, runs
from services.access import require
from services.errors import Conflict, Invalid, LockstepError

blueprint = Blueprint("api_runs", __name__, url_prefix="/api/v1/runs/<organization>/<environment>")

#: A message has 200 characters.
_MOST_BYTES = 16 * 1024
_BODY = 'Send a form or a JSON object with "message", or nothing. No plan was queued.'


@blueprint.post("")
def queue(organization: str, environment: str) -> ResponseReturnValue:
    """A plan of the newest configuration, as the button on the page queues it."""
    membership, found, body = token_access.load_with_body(organization, environment, _MOST_BYTES)
    require(membership, Permission.WRITE, "You cannot queue plans here.", found)
    message = _message(body)
    version = configurations.latest(found)
    if version is None:
        raise Conflict("There is no configuration yet. No plan was queued; upload one on the page Changes first.")
    run = runs.create_run(membership, found, version, message, token=token_access.token().name)
    answer = _answer(201, _told(run))
    answer.headers["Location"] = _absolute(url_for("api_runs.show", **run_steps.address(run)))
    return answer


@blueprint.get("/<int:number>")
def show(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """How a run stands."""
    _, found = token_access.load(organization, environment)
    return _answer(200, _told(runs.run_by_number(found, number)))


def _told(run: Run) -> dict[str, Any]:
    return {**run_report.facts(run), "url": _absolute(url_for("runs.show", **run_steps.address(run)))}


def _absolute(path: str) -> str:
    """An address below PUBLIC_URL, or below the one that the request came to."""
    return str(current_app.config["LOCKSTEP"].public_url or request.url_root.rstrip("/")) + path


def _message(body: bytes) -> str:
    """The one thing that can be given."""
    given: dict[str, Any] = {}
    if request.mimetype == "application/x-www-form-urlencoded":
        given = request.form.to_dict()  # from the body that is here already
    elif body.strip():
        given = _object(body)
    unknown = sorted(set(given) - {"message"})
    if unknown:
        # Such as a level or a confirmation: whoever sends it expects what does not happen here.
        raise Invalid(unknown[0], 'Only "message" can be given. No plan was queued.')
    message = given.get("message") or ""
    # PostgreSQL takes neither NUL nor half of a pair of surrogates.
    if not isinstance(message, str) or "\0" in message or (not message.isascii() and _broken(message)):
        raise Invalid("message", "The message must be text. No plan was queued.")
    return message


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Invalid("message", _BODY)
    return found


def _broken(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _answer(status: int, told: dict[str, Any]) -> Response:
    return Response(json.dumps(told) + "\n", status, mimetype="application/json")


def _refusal(status: int, sentence: str) -> Response:
    return _answer(status, {"error": sentence})


token_access.guard(blueprint, _refusal)


@blueprint.errorhandler(LockstepError)
def _sentence(error: LockstepError) -> Response:
    db.session.rollback()
    return _refusal(token_access.STATUSES.get(type(error), 503), str(error))


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    db.session.rollback()
    return _refusal(413, "The body is larger than a message can be. No plan was queued.")
