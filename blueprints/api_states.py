"""What terraform's http backend speaks to: GET, POST, LOCK and UNLOCK of an environment's state.

A personal token comes as the password of HTTP Basic, with the person's name. No cookie counts here, so no form token is
asked either. Answers are short texts, and terraform's own LockInfo where the state is held.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging

from flask import Blueprint, Response, current_app, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from extensions import csrf, db
from models import ApiToken, Environment, Membership, TokenScope
from policy.state_file import NotAState
from services import environments, organizations, state_downloads, state_locks, state_writes, throttle, tokens
from services.errors import Conflict, Forbidden, LockstepError, NotFound, SecondFactorNeeded
from services.state_locks import BadLock, Locked
from services.states import StaleState
from services.storage.blobs import BlobUnreadable
from services.storage.sqlite import read_only
from services.throttle import Throttled

log = logging.getLogger(__name__)

blueprint = Blueprint("api_states", __name__, url_prefix="/api/v1/states/<organization>/<environment>")
csrf.exempt(blueprint)

#: A LockInfo is a few hundred bytes.
_MOST_LOCK_BYTES = 64 * 1024


@blueprint.get("")
def read(organization: str, environment: str) -> ResponseReturnValue:
    """The current state as it was written; nothing (204) when there is none."""
    found = state_downloads.current(*_load(organization, environment), token=_token().name)
    if found is None:
        return Response(status=204)
    _, content = found
    answer = Response(content, mimetype="application/json")
    answer.headers["Content-MD5"] = _md5(content)
    return answer


@blueprint.post("")
def write(organization: str, environment: str) -> ResponseReturnValue:
    """A new state, with the ID of the lock in the address."""
    place = _load(organization, environment)
    content = _body(current_app.config["LOCKSTEP"].max_state_bytes)
    expected = request.headers.get("Content-MD5")
    if expected is not None and expected != _md5(content):
        return _text(400, "The body is not what Content-MD5 says. Nothing was stored; send it again.")
    state_writes.from_terminal(*place, content, request.args.get("ID"), _token().name)
    return _text(200, "Stored.")


@blueprint.route("", methods=["LOCK"])
def lock(organization: str, environment: str) -> ResponseReturnValue:
    """Take the lock for this terminal."""
    place = _load(organization, environment)
    state_locks.take(*place, _lock_info(_body(_MOST_LOCK_BYTES)))
    return _text(200, "Locked.")


@blueprint.route("", methods=["UNLOCK"])
def unlock(organization: str, environment: str) -> ResponseReturnValue:
    """Let go of it. `terraform force-unlock` (1.11) sends no body."""
    place = _load(organization, environment)
    body = _body(_MOST_LOCK_BYTES)
    sent = state_locks.lock_id(_lock_info(body)) if body.strip() else None
    state_locks.release(*place, sent)
    return _text(200, "Unlocked.")


@blueprint.before_request
def _authenticate() -> ResponseReturnValue | None:
    """Whose token it is. Until the body is here nothing may write, so that a slow one keeps nobody waiting."""
    read_only.set(True)
    given = request.authorization
    name, password = (given.username, given.password) if given is not None and given.type == "basic" else ("", "")
    token = tokens.recognize(name or "", password or "")
    if token is None:
        db.session.rollback()
        read_only.set(False)
        try:
            throttle.take(throttle.of_address("token"))
        except Throttled as error:
            # A good token is let in all the same: there is nothing to guess, so nobody behind the address is kept out.
            answer = _text(429, str(error))
            answer.headers["Retry-After"] = str(error.waiting)
            return answer
        # Not into the audit log, which would grow with every guess; and what was sent is not told.
        log.warning("request %s: a token was refused, from %s", g.get("request_id", ""), request.remote_addr)
        answer = _text(401, "Give your user name, and a personal API token of yours as the password.")
        answer.headers["WWW-Authenticate"] = 'Basic realm="Lockstep", charset="UTF-8"'
        return answer
    g.token = token
    tokens.used(token)
    return None


def _load(organization: str, environment: str) -> tuple[Membership, Environment]:
    """Who, and where; strangers find nothing. A token for reading only reads."""
    membership = organizations.membership(_token().user, organization)
    found = environments.environment(membership, environment)
    if _token().scope is not TokenScope.QUEUE and request.method not in ("GET", "HEAD"):
        raise Forbidden("This token is for reading only. Nothing was changed.")
    return membership, found


def _token() -> ApiToken:
    token: ApiToken = g.token
    return token


def _body(most: int) -> bytes:
    """The body of at most so many bytes, received outside any transaction; from then on the request may write."""
    request.max_content_length = most
    db.session.rollback()
    body = request.get_data(cache=False)
    read_only.set(False)
    return body


def _lock_info(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadLock("The body must be terraform's LockInfo, as JSON.") from None


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _text(status: int, sentence: str) -> Response:
    return Response(sentence + "\n", status, mimetype="text/plain")


@blueprint.errorhandler(Locked)
def _locked(error: Locked) -> Response:
    db.session.rollback()
    return Response(json.dumps(error.info), 423, mimetype="application/json")


def _refused(status: int, sentence: str) -> Response:
    db.session.rollback()
    return _text(status, sentence)


@blueprint.errorhandler(LockstepError)
@blueprint.errorhandler(NotAState)
def _sentence(error: LockstepError | NotAState) -> Response:
    statuses: dict[type[Exception], int] = {
        NotFound: 404,
        Forbidden: 403,
        SecondFactorNeeded: 403,
        StaleState: 409,
        Conflict: 409,
        BadLock: 400,
        NotAState: 400,
    }
    statuses[BlobUnreadable] = 500  # not to be tried again
    return _refused(statuses.get(type(error), 503), str(error))


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    return _refused(413, "The state is larger than MAX_STATE_MB of this Lockstep allows. Nothing was stored.")
