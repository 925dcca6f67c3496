"""Signing in and out, and changing one's password."""

from __future__ import annotations

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required
from flask_wtf import FlaskForm
from wtforms import BooleanField, PasswordField, StringField

from blueprints.forms import refused, stripped
from blueprints.loading import person
from blueprints.sessions import begin_session, end_session, first_step, safe_path, this_sign_in
from services import accounts, sign_ins
from services.errors import Forbidden, Invalid, NotFound
from services.throttle import Throttled

blueprint = Blueprint("auth", __name__)

#: One sentence for an unknown name and for a wrong password.
NO_MATCH = "That user name and password do not belong together."


class LoginForm(FlaskForm):
    """Who, and the password."""

    username = StringField(filters=[stripped])
    password = PasswordField()
    remember = BooleanField()


class PasswordForm(FlaskForm):
    """The present password and the new one, twice."""

    current = PasswordField()
    password = PasswordField()
    again = PasswordField()


@blueprint.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """The sign-in form; leads on to ``next``."""
    onward = safe_path(request.args.get("next"))
    if current_user.is_authenticated:
        return redirect(onward, 303)
    form = LoginForm()
    if request.method == "GET":
        return render_template("auth/login.html", form=form, onward=onward)
    if not current_app.config["LOCKSTEP"].password_sign_in:
        raise Forbidden("Passwords are switched off here. Sign in with single sign-on. Nobody was signed in.")
    name = form.username.data or ""
    try:
        arrival = accounts.sign_in(name, form.password.data or "")
    except Throttled as error:
        page = render_template("auth/login.html", form=form, onward=onward, error=str(error))
        return page, 429, {"Retry-After": str(error.waiting)}
    if arrival is None:
        return render_template("auth/login.html", form=form, onward=onward, error=NO_MATCH), 422
    return first_step(arrival, onward=onward, remember=form.remember.data)


@blueprint.post("/logout")
def logout() -> ResponseReturnValue:
    """Sign out here; other browsers stay signed in."""
    found = this_sign_in()
    if found is not None:
        sign_ins.end(person(), found.id, "session.sign_out")
    end_session()
    flash("You are signed out.", "success")
    return redirect(url_for("auth.login"), 303)


@blueprint.route("/settings/password", methods=["GET", "POST"])
@login_required
def password() -> ResponseReturnValue:
    """Change the password; every other browser is signed out."""
    if not person().password_hash or not current_app.config["LOCKSTEP"].password_sign_in:
        raise NotFound("There is no such page.")
    form, errors = PasswordForm(), {}
    if request.method == "POST":
        try:
            _change(form)
        except Invalid as error:
            errors = refused(error)
        else:
            flash("Password changed. You were signed out everywhere else.", "success")
            return redirect(url_for("organizations.index"), 303)
    return render_template("auth/password.html", errors=errors), 422 if errors else 200


def _change(form: PasswordForm) -> None:
    if form.password.data != form.again.data:
        raise Invalid("again", "That is not the same as the new password.")
    remembered = "lockstep_remember" in request.cookies
    arrival = accounts.change_password(person(), form.current.data or "", form.password.data or "")
    begin_session(arrival, remember=remembered, how="")
