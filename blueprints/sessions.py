"""Beginning, recognizing and ending a signed-in session, and asking for the password again before administration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

from flask import Flask, g, make_response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_user, logout_user

from blueprints import incoming
from blueprints.loading import is_fragment
from models import SignIn, User
from services import accounts, sign_ins
from services.sign_ins import Arrival

#: Blueprints whose pages are administration, whatever the method.
_GUARDED = frozenset({"access", "tokens", "second_factor", "links", "oidc"})
#: Blueprints whose pages everybody may read, and whose forms are administration.
_GUARDED_FORMS = frozenset({"members", "teams"})
#: Further views that are, whatever the method: what is typed into a form is typed after the password.
_GUARDED_VIEWS = frozenset({"environments.new", "audit.export"})
#: Further views whose POST is. To unlock by hand is, too, where somebody else locked (blueprints/environments.py).
_GUARDED_POSTS = frozenset({"environments.settings", "states.upload", "states.rollback", "states.unlock",
                            "runs.force", "runs.give_up"})  # fmt: skip
#: Views whose POST is where it is about what an organization shares; a person's own variables are everyday work.
_GUARDED_WHERE_SHARED = frozenset({"variables.save_organization", "variables.delete_organization"})
#: Of the guarded views files, which are fetched from a page.
_FILES = frozenset({"audit.export"})
#: Of the guarded blueprints what people reach who are not signed in, or who have to get through first.
_OPEN = frozenset({"links.arrive", "links.show", "links.take", "links.forgot", "oidc.go",
                   "oidc.back", "second_factor.step"})  # fmt: skip

#: Where the secret of a one-time link is kept while its page is open: the browser's own cookie, no address.
KEPT_LINK = "link"
#: Where an identity of the provider is kept that belongs to no account yet, beside an invitation.
IDENTITY = "identity"
#: Where the first step of signing in is kept, and for how many seconds the second may take.
_STEP = "step"
_STEP_SECONDS = 600


def register(app: Flask) -> None:
    """Ask for a recent proof before administration."""
    app.before_request(_guard)
    app.add_template_global(is_proof_due)


def begin_session(arrival: Arrival, *, remember: bool = False, how: str = "password") -> None:
    """Sign in with a fresh session: nothing of an earlier one is carried over but a one-time link.

    ``how`` is for the audit log, "" when the session of before only goes on. Raises :class:`services.errors.Conflict`
    for who was signed out everywhere since the arrival.
    """
    user = arrival.user
    user.session_identifier = sign_ins.begin(arrival, how)
    link = session.get(KEPT_LINK)
    session.clear()
    if link:
        session[KEPT_LINK] = link  # who signs in to take an invitation comes back to it
    login_user(user, remember=remember)


@dataclass(frozen=True, slots=True)
class Step:
    """Somebody whose password was right, and who still owes a code."""

    arrival: Arrival
    remember: bool
    how: str
    onward: str


def first_step(arrival: Arrival, *, onward: str, remember: bool = False, how: str = "password") -> ResponseReturnValue:
    """Sign in, or ask for the code first where the person has a second factor."""
    if arrival.user.totp_at is None:
        begin_session(arrival, remember=remember, how=how)
        return redirect(onward, 303)
    link = session.get(KEPT_LINK)
    session.clear()
    if link:
        session[KEPT_LINK] = link
    session[_STEP] = {"user": arrival.user.id, "epoch": arrival.epoch, "at": int(time.time()),
                      "remember": remember, "how": how, "onward": onward}  # fmt: skip
    return redirect(url_for("second_factor.step"), 303)


def waiting_step() -> Step | None:
    """The first step that this browser made, not long ago."""
    kept = session.get(_STEP)
    if not isinstance(kept, dict) or not 0 <= time.time() - kept["at"] <= _STEP_SECONDS:
        return None
    arrival = accounts.waiting(kept["user"], kept["epoch"])
    return Step(arrival, kept["remember"], kept["how"], kept["onward"]) if arrival is not None else None


def forget_step() -> None:
    """Begin anew with the password."""
    session.pop(_STEP, None)


def end_session() -> None:
    """Forget who is signed in here; the row of the sign-in is the caller's to end."""
    logout_user()
    forget = session.get("_remember")  # Flask-Login deletes its own cookie when it sees this
    session.clear()
    if forget:
        session["_remember"] = forget


def load(identifier: str) -> User | None:
    """For Flask-Login: the person of a session that was not ended. The sign-in is kept in ``g.sign_in``."""
    g.sign_in = sign_ins.recognize(identifier)
    if g.sign_in is None:
        return None
    user: User = g.sign_in.user
    user.session_identifier = identifier
    return user


def this_sign_in() -> SignIn | None:
    """The row of this browser's session."""
    return cast("SignIn | None", g.get("sign_in")) if current_user.is_authenticated else None


def is_proof_due() -> bool:
    """Whether administration would ask for the password now; never for who is not signed in."""
    found = this_sign_in()
    return found is not None and not sign_ins.is_proved(found)


def _guard() -> ResponseReturnValue | None:
    endpoint = request.endpoint or ""
    return prove_first() if endpoint not in _OPEN and _is_administration(endpoint) else None


def prove_first() -> ResponseReturnValue | None:
    """The way to the proof, and from there back to the page that was left; None when there was one lately."""
    if not is_proof_due():
        return None  # who is not signed in is sent to the form by the view
    there = url_for("sign_ins.prove", next=_where())
    if is_fragment():
        answer = make_response("", 403)
        answer.headers["HX-Redirect"] = there
        return answer
    return redirect(there, 303)


def _is_administration(endpoint: str) -> bool:
    """Whether the request is one that needs a recent proof."""
    place = endpoint.partition(".")[0]
    shared = endpoint in _GUARDED_WHERE_SHARED and (request.view_args or {}).get("panel") == "shared"
    form = request.method == "POST" and (place in _GUARDED_FORMS or endpoint in _GUARDED_POSTS or shared)
    return form or place in _GUARDED or endpoint in _GUARDED_VIEWS


def _where() -> str | None:
    """The page to come back to: this one, or the one whose form was sent or whose file was asked for."""
    page = request.method in ("GET", "HEAD") and request.endpoint not in _FILES
    shown = incoming.page_shown()
    if page or (request.endpoint in _FILES and shown is None):
        return request.full_path.rstrip("?")
    return shown


def safe_path(path: str | None) -> str:
    """``path`` when it leads to a page of this site, else the start page.

    Browsers read two slashes, or a slash and a backslash, as the start of another site's name,
    and drop tabs and line breaks inside an address.
    """
    if path and path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable() and "\\" not in path:
        return path
    return url_for("organizations.index")
