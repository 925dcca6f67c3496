"""Where a person is signed in, ending that, and giving the password again before administration."""

from __future__ import annotations

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import refused
from blueprints.loading import person
from blueprints.sessions import end_session, safe_path, this_sign_in
from services import accounts, sign_ins
from services.errors import Forbidden, Invalid

blueprint = Blueprint("sign_ins", __name__, url_prefix="/settings/sessions")

#: In this order: most browsers also name the ones they descend from.
_BROWSERS = (("Edg", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrom", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"), ("Mac OS", "macOS"),
            ("Linux", "Linux"))  # fmt: skip


@blueprint.app_template_filter("browser")
def browser(agent: str) -> str:
    """A browser's User-Agent in two words; what the browser says of itself, so a hint and no more."""
    program = next((name for sign, name in _BROWSERS if sign in agent), "")
    system = next((name for sign, name in _SYSTEMS if sign in agent), "")
    return f"{program} on {system}" if program and system else program or system or agent[:40] or "Unknown browser"


@blueprint.get("")
@login_required
def index() -> ResponseReturnValue:
    """Every browser where the person is signed in."""
    return render_template("auth/sessions.html", sign_ins=sign_ins.of(person()), here=this_sign_in())


@blueprint.post("/<int:number>/revoke")
@login_required
def revoke(number: int) -> ResponseReturnValue:
    """Sign one of the browsers out at once."""
    found, here = sign_ins.end(person(), number), this_sign_in()
    if here is not None and found.id == here.id:
        return _gone()
    flash("That browser is signed out.", "success")
    return redirect(url_for("sign_ins.index"), 303)


@blueprint.post("/end")
@login_required
def end() -> ResponseReturnValue:
    """Sign out everywhere, here too."""
    sign_ins.end_everywhere(person())
    return _gone()


@blueprint.route("/prove", methods=["GET", "POST"])
@login_required
def prove() -> ResponseReturnValue:
    """The password again, before administration; leads back to ``next``."""
    onward, errors = safe_path(request.args.get("next")), {}
    found = this_sign_in()
    by_password = _has_password()
    if request.method == "POST" and found is not None:
        if not by_password:
            raise Forbidden("Passwords are switched off here. Nothing was changed.")
        try:
            accounts.prove(found, request.form.get("password", ""))
        except Invalid as error:
            errors = refused(error)
        else:
            return redirect(onward, 303)
    return render_template(
        "auth/prove.html", errors=errors, onward=onward, by_password=by_password
    ), 422 if errors else 200


def _has_password() -> bool:
    """Whether the person's password counts; it does for who is not connected with the provider yet."""
    user = person()
    return bool(user.password_hash) and (current_app.config["LOCKSTEP"].password_sign_in or user.oidc_subject is None)


def _gone() -> ResponseReturnValue:
    end_session()
    flash("You are signed out.", "success")
    return redirect(url_for("auth.login"), 303)
