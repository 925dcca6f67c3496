"""What terraform's http backend speaks to: GET, POST, LOCK and UNLOCK of an environment's state.

A personal token lets in (blueprints/token_access.py). Answers are short texts, and terraform's own LockInfo where the
state is held.
"""

from __future__ import annotations

import base64
import hashlib
import json

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from blueprints import token_access
from extensions import db
from policy.state_file import NotAState
from services import state_downloads, state_locks, state_writes
from services.errors import LockstepError, NotFound
from services.state_locks import BadLock, Locked
from services.states import StaleState
from services.storage.blobs import BlobUnreadable

blueprint = Blueprint("api_states", __name__, url_prefix="/api/v1/states")

_METHODS = ("GET", "POST", "LOCK", "UNLOCK")

#: A LockInfo is a few hundred bytes.
_MOST_LOCK_BYTES = 64 * 1024


@blueprint.get("/<organization>/<environment>")
def read(organization: str, environment: str) -> ResponseReturnValue:
    """The current state as it was written; nothing (204) when there is none."""
    found = state_downloads.current(*token_access.load(organization, environment), token=token_access.token().name)
    if found is None:
        return Response(status=204)
    _, content = found
    answer = Response(content, mimetype="application/json")
    answer.headers["Content-MD5"] = _md5(content)
    return answer


@blueprint.post("/<organization>/<environment>")
def write(organization: str, environment: str) -> ResponseReturnValue:
    """A new state, with the ID of the lock in the address."""
    most = current_app.config["LOCKSTEP"].max_state_bytes
    membership, found, content = token_access.load_with_body(organization, environment, most)
    expected = request.headers.get("Content-MD5")
    if expected is not None and expected != _md5(content):
        return _text(400, "The body is not what Content-MD5 says. Nothing was stored; send it again.")
    state_writes.from_terminal(membership, found, content, request.args.get("ID"), token_access.token().name)
    return _text(200, "Stored.")


@blueprint.route("/<organization>/<environment>", methods=["LOCK"])
def lock(organization: str, environment: str) -> ResponseReturnValue:
    """Take the lock for this terminal."""
    membership, found, body = token_access.load_with_body(organization, environment, _MOST_LOCK_BYTES)
    state_locks.take(membership, found, _lock_info(body))
    return _text(200, "Locked.")


@blueprint.route("/<organization>/<environment>", methods=["UNLOCK"])
def unlock(organization: str, environment: str) -> ResponseReturnValue:
    """Let go of it. `terraform force-unlock` (1.11) sends no body."""
    membership, found, body = token_access.load_with_body(organization, environment, _MOST_LOCK_BYTES)
    sent = state_locks.lock_id(_lock_info(body)) if body.strip() else None
    state_locks.release(membership, found, sent)
    return _text(200, "Unlocked.")


@blueprint.route("/", methods=_METHODS, strict_slashes=False)
@blueprint.route("/<path:wrong>", methods=_METHODS)
def nowhere(wrong: str = "") -> ResponseReturnValue:
    """Any other address: no state is there, like one that is not this person's."""
    raise NotFound(wrong)


def _lock_info(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadLock("The body must be terraform's LockInfo, as JSON.") from None


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _text(status: int, sentence: str) -> Response:
    return Response(sentence + "\n", status, mimetype="text/plain")


token_access.guard(blueprint, _text)


@blueprint.errorhandler(Locked)
def _locked(error: Locked) -> Response:
    db.session.rollback()
    return Response(json.dumps(error.info), 423, mimetype="application/json")


def _refused(status: int, sentence: str) -> Response:
    db.session.rollback()
    return _text(status, sentence)


@blueprint.errorhandler(NotFound)
def _no_such_state(_error: NotFound) -> Response:
    # 404 would be "no state yet" (terraform 1.11), and everything would be planned as new: docs/adr/0008.
    return _refused(403, "No state is at this address, or you have no access to it. Nothing was changed.")


@blueprint.errorhandler(LockstepError)
@blueprint.errorhandler(NotAState)
def _sentence(error: LockstepError | NotAState) -> Response:
    statuses: dict[type[Exception], int] = {
        **token_access.STATUSES,
        StaleState: 409,
        BadLock: 400,
        NotAState: 400,
    }
    statuses[BlobUnreadable] = 500  # not to be tried again
    return _refused(statuses.get(type(error), 503), str(error))


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    return _refused(413, "The state is larger than MAX_STATE_MB of this Lockstep allows. Nothing was stored.")
