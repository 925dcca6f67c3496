"""Single sign-on: the way to the provider and back, and connecting an account with it."""

from __future__ import annotations

import hmac
import time
from typing import Any

from flask import Blueprint, current_app, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required

from blueprints.loading import person
from blueprints.sessions import IDENTITY, KEPT_LINK, first_step, safe_path, this_sign_in
from policy.sign_in_settings import Provider
from services import sign_ins, single_sign_on
from services.errors import Forbidden, NotFound
from services.single_sign_on import Identity, Journey, SignOnFailed

blueprint = Blueprint("oidc", __name__)

#: Where a journey is kept, and for how many seconds.
_JOURNEY = "journey"
_JOURNEY_SECONDS = 600

_SIGN_IN, _CONNECT, _PROVE = "sign-in", "connect", "prove"


@blueprint.get("/login/single-sign-on")
def go() -> ResponseReturnValue:
    """To the provider; ``for`` says what for. A link, because the CSP lets no form lead to another site."""
    _configured()
    purpose = request.args.get("for", _SIGN_IN)
    if purpose not in (_SIGN_IN, _CONNECT, _PROVE):
        raise NotFound("There is no such page.")
    if purpose != _SIGN_IN and not current_user.is_authenticated:
        return redirect(url_for("auth.login"), 303)
    if purpose == _CONNECT and not _is_proved():
        return redirect(url_for("sign_ins.prove", next=url_for("oidc.show")), 303)
    journey = single_sign_on.begin(_back(), again=purpose == _PROVE)
    session[_JOURNEY] = {
        "state": journey.state, "nonce": journey.nonce, "verifier": journey.verifier, "purpose": purpose,
        "onward": safe_path(request.args.get("next")), "at": int(time.time()),
        "user": person().id if current_user.is_authenticated else None,
    }  # fmt: skip
    return redirect(journey.address, 303)


@blueprint.get("/login/single-sign-on/back")
def back() -> ResponseReturnValue:
    """From the provider, with a code."""
    _configured()
    kept: Any = session.pop(_JOURNEY, None)
    good = isinstance(kept, dict) and 0 <= time.time() - kept["at"] <= _JOURNEY_SECONDS
    # As bytes: compare_digest takes no text that is not ASCII.
    if not good or not hmac.compare_digest(kept["state"].encode(), request.args.get("state", "").encode()):
        raise SignOnFailed("That answer belongs to no sign-in of this browser. Nobody was signed in. Begin again.")
    code = request.args.get("code")
    if not code:
        raise SignOnFailed("The provider of single sign-on refused. Nobody was signed in.")
    journey = Journey("", kept["state"], kept["nonce"], kept["verifier"])
    identity = single_sign_on.finish(journey, _back(), code, again=kept["purpose"] == _PROVE)
    if kept["purpose"] == _SIGN_IN:
        return _sign_in(identity, kept["onward"])
    if not current_user.is_authenticated or person().id != kept["user"]:
        raise SignOnFailed("Another person is signed in than when it began. Nothing was changed.")
    return _prove(identity, kept["onward"]) if kept["purpose"] == _PROVE else _connect(identity)


@blueprint.get("/settings/single-sign-on")
@login_required
def show() -> ResponseReturnValue:
    """Whether the account is connected."""
    _configured()
    return render_template("auth/single_sign_on.html")


@blueprint.post("/settings/single-sign-on/disconnect")
@login_required
def disconnect() -> ResponseReturnValue:
    """Take the connection away."""
    _configured()
    single_sign_on.disconnect(person())
    flash("Your account is not connected any more.", "success")
    return redirect(url_for("oidc.show"), 303)


@blueprint.app_context_processor
def _known() -> dict[str, Any]:
    """For the pages of signing in: the provider, and whether passwords count."""
    settings = current_app.config["LOCKSTEP"]
    return {"provider": settings.provider, "password_sign_in": settings.password_sign_in}


def _sign_in(identity: Identity, onward: str) -> ResponseReturnValue:
    arrival = single_sign_on.person(identity)
    if arrival is not None:
        return first_step(arrival, onward=onward, how="single sign-on")
    if session.get(KEPT_LINK):
        session[IDENTITY] = {"issuer": identity.issuer, "subject": identity.subject, "name": identity.name,
                             "email": identity.email, "at": int(time.time())}  # fmt: skip
        return redirect(url_for("links.show"), 303)
    raise Forbidden(
        "No account here is connected with that sign-in. Ask an owner for an invitation; or, if you have an account, "
        "sign in with its password and connect it in your settings."
    )


def _prove(identity: Identity, onward: str) -> ResponseReturnValue:
    found = this_sign_in()
    if found is None or not single_sign_on.is_of(person(), identity):
        raise SignOnFailed("That is not the sign-in that your account is connected with. Nothing was changed.")
    sign_ins.proved(found)
    return redirect(safe_path(onward), 303)


def _connect(identity: Identity) -> ResponseReturnValue:
    if not _is_proved():
        raise SignOnFailed("That took too long. Nothing was changed; begin again.")
    single_sign_on.connect(person(), identity)
    flash("Your account is connected.", "success")
    return redirect(url_for("oidc.show"), 303)


def _is_proved() -> bool:
    found = this_sign_in()
    return found is not None and sign_ins.is_proved(found)


def _configured() -> Provider:
    found: Provider | None = current_app.config["LOCKSTEP"].provider
    if found is None:
        raise NotFound("There is no such page.")
    return found


def _back() -> str:
    return str(current_app.config["LOCKSTEP"].public_url) + url_for("oidc.back")
