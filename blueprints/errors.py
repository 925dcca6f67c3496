"""Each named exception becomes a page or a fragment here, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

from flask import Flask, Response, current_app, flash, g, make_response, redirect, render_template, request, url_for
from flask_login import current_user
from flask_wtf.csrf import CSRFError
from redis.exceptions import RedisError
from sqlalchemy.exc import DataError, InvalidRequestError, OperationalError
from werkzeug.exceptions import HTTPException, SecurityError

from blueprints import incoming
from blueprints.loading import is_fragment
from extensions import db, login_manager
from services.errors import CodeRejected, Conflict, Forbidden, Invalid, NotFound, SecondFactorNeeded, ServiceAway
from services.single_sign_on import SignOnFailed
from services.storage.blobs import BlobUnreadable
from services.storage.vault import VaultError
from services.throttle import Throttled

log = logging.getLogger(__name__)


class OtherKeys(ServiceAway):
    """The keys of this process are not the installation's; which, and what to do, is for its log alone."""

    def __init__(self) -> None:
        super().__init__(
            "Lockstep was started with other keys than this installation has. Nothing was changed. Whoever runs it "
            "finds in the log of the web server what to do."
        )


#: Where forms are sent by people who are not signed in.
_FORMS_FOR_STRANGERS = frozenset({"auth", "links", "oidc", "second_factor", "setup"})

_UNREADABLE = "Stored values cannot be read"

#: status → (title, what a person reads when no service said it better)
_SENTENCES = {
    400: ("Bad request", "The request could not be understood. Nothing was changed."),
    403: ("Not allowed", "You may see this but not change it. Nothing was changed."),
    404: ("Page not found", "It may be deleted, or your account may not have access to it. Nothing was changed."),
    405: ("Bad request", "This address takes no such request. Nothing was changed."),
    409: ("Somebody was faster", "Nothing was changed. Look at the present status and try again."),
    413: ("Too large", "The upload is larger than allowed. Nothing was kept."),
    422: ("Not accepted", "Nothing was changed."),
    429: ("Too many attempts", "Nothing was sent. Wait and try again."),
    500: ("Something went wrong", "This is a fault of Lockstep. It was written to the log of the web server."),
    503: ("Not available now", "The database does not answer. Nothing was changed; try again in a moment."),
}


def register(app: Flask) -> None:
    """Install the handlers."""
    for error, status in ((NotFound, 404), (Forbidden, 403), (Conflict, 409), (Invalid, 422), (ServiceAway, 503)):
        app.register_error_handler(error, _handler(status))
    # Without the person: nothing is looked up with such keys.
    app.register_error_handler(OtherKeys, lambda error: _bare(503, str(error)))
    app.register_error_handler(SignOnFailed, _handler(403))
    app.register_error_handler(CodeRejected, lambda error: answer(error.status, str(error)))
    app.register_error_handler(Throttled, _throttled)
    app.register_error_handler(SecondFactorNeeded, _second_factor)
    app.register_error_handler(CSRFError, _csrf)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(OperationalError, _database_away)
    app.register_error_handler(DataError, _not_storable)
    app.register_error_handler(RedisError, _redis_away)
    app.register_error_handler(VaultError, _unreadable)
    app.register_error_handler(BlobUnreadable, _unreadable)
    app.register_error_handler(Exception, _unexpected)
    login_manager.unauthorized_handler(_sign_in)


def answer(status: int, sentence: str = "", title: str = "") -> Response:
    """An error page, or for htmx a notice in place of the fragment."""
    usual_title, usual = _SENTENCES.get(status, _SENTENCES[400])
    template = "errors/_notice.html" if is_fragment() else "errors/page.html"
    response = make_response(
        render_template(
            template,
            status=status,
            title=title or usual_title,
            sentence=sentence or usual,
            request_id=g.get("request_id", ""),
            # Where the form is that was not taken: its page says what is so now.
            back=incoming.page_shown() if request.method == "POST" and status != 404 else None,
        ),
        status,
    )
    if is_fragment():
        response.headers["HX-Retarget"] = "#notices"
        # Who pressed a button far down the page sees what came of it; a poll moves nothing.
        response.headers["HX-Reswap"] = "innerHTML show:top" if request.method == "POST" else "innerHTML"
    return response


def _handler(status: int) -> Callable[[Exception], Response]:
    def handle(error: Exception) -> Response:
        db.session.rollback()
        _forget_who_is_gone()
        return answer(status, "" if status == 404 else str(error))

    return handle


def _forget_who_is_gone() -> None:
    """The layout shows an organization only to whom it still has: they may have been removed at this moment."""
    if g.get("membership") is not None:
        try:
            db.session.refresh(g.membership)
        except InvalidRequestError:
            g.membership = None


def _http(error: HTTPException) -> Response | HTTPException:
    if isinstance(error, SecurityError):  # a host that is not served: no page can be made, for it links to the host
        return Response("Lockstep does not answer under this name. See TRUSTED_HOSTS.\n", 400, mimetype="text/plain")
    if error.code is None or error.code < 400:
        return error
    db.session.rollback()
    status = error.code if error.code in _SENTENCES else (500 if error.code >= 500 else 400)
    return answer(status)


def _second_factor(_error: SecondFactorNeeded) -> Response:
    """Led to where it is set up, whose page says which organization requires it."""
    db.session.rollback()
    there = url_for("second_factor.show")
    if is_fragment():
        response = make_response("", 403)
        response.headers["HX-Redirect"] = there
        return response
    return cast(Response, redirect(there, 303))


def _throttled(error: Throttled) -> Response:
    db.session.rollback()
    response = answer(429, str(error))
    response.headers["Retry-After"] = str(error.waiting)
    return response


def _csrf(_error: CSRFError) -> Response:
    if not current_user.is_authenticated and request.blueprint not in _FORMS_FOR_STRANGERS:
        return _sign_in()  # the token went with the session
    again = "reload the page" if is_fragment() else "go back, reload the page"
    return answer(400, f"The form was too old or came from elsewhere. Nothing was changed; {again} and try again.")


def _database_away(error: OperationalError) -> Response:
    log.error("request %s: database: %s", g.get("request_id", ""), type(error.orig).__name__)
    try:
        db.session.rollback()
    except OperationalError:
        db.session.close()
    return _bare(503, "The database does not answer. Nothing was changed; try again in a moment.")


def _not_storable(error: DataError) -> Response:
    # PostgreSQL takes no NUL in text and no number beyond its column: nothing that a page of ours sends.
    log.warning("request %s: database: %s", g.get("request_id", ""), type(error.orig).__name__)
    db.session.rollback()
    return answer(400)


def _redis_away(error: RedisError) -> Response:
    log.error("request %s: Redis: %s", g.get("request_id", ""), type(error).__name__)
    db.session.rollback()
    return answer(503, "Redis does not answer. Runs, logs and states are safe in the database; try again in a moment.")


def _unreadable(error: VaultError | BlobUnreadable) -> Response:
    # The text of both names neither keys nor values.
    log.error("request %s: %s: %s", g.get("request_id", ""), type(error).__name__, error)
    db.session.rollback()
    what = "It is not what was stored, or its key is gone." if isinstance(error, VaultError) else str(error)
    sentence = (
        f"{what} Nothing was changed. If the file encryption_keys of the data folder, or ENCRYPTION_KEYS, was replaced,"
        " put the former key back behind the newest one and start Lockstep again. Variables whose key is lost can be"
        " set anew: their panels say which."
    )
    return answer(500, sentence, _UNREADABLE)


def _unexpected(error: Exception) -> Response:
    # Only where it happened: the text of an exception can quote what a person typed.
    log.error("request %s: %s", g.get("request_id", ""), type(error).__name__, exc_info=current_app.debug)
    trace = error.__traceback__
    while trace is not None:
        log.error("  at %s:%s in %s", trace.tb_frame.f_code.co_filename, trace.tb_lineno, trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    if current_app.config["PROPAGATE_EXCEPTIONS"]:
        raise error
    db.session.rollback()
    return _bare(
        500, f"This is a fault of Lockstep; it is in the web server's log as request {g.get('request_id', '')}."
    )


def _bare(status: int, sentence: str) -> Response:
    """A page that needs no database: the layout without the person."""
    if is_fragment():
        return answer(status, sentence)
    title, _ = _SENTENCES[status]
    return make_response(render_template("errors/bare.html", status=status, title=title, sentence=sentence), status)


def _sign_in() -> Response:
    """A page goes to the sign-in form; a fragment tells htmx to go there instead of swapping the form in."""
    if request.method == "POST":
        flash("You are signed out. Nothing was changed. Sign in, then do it again.", "warning")
    # The page that asked, not the fragment or the form; sign-in follows only a path of this server.
    onward = incoming.page_shown() or ""
    if request.method == "GET" and not is_fragment():
        onward = request.full_path.rstrip("?")
    there = url_for("auth.login", next=onward or None)
    if is_fragment():
        response = make_response("", 401)
        response.headers["HX-Redirect"] = there
        return response
    return cast(Response, redirect(there))
