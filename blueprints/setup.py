"""The page behind the one-time link that an empty installation prints: it makes the first owner."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import PasswordField, StringField

from blueprints.forms import refused, stripped
from blueprints.sessions import begin_session
from services import accounts, setup
from services.errors import Invalid

blueprint = Blueprint("setup", __name__)


class FirstOwnerForm(FlaskForm):
    """The first person and their organization."""

    name = StringField(filters=[stripped])
    email = StringField(filters=[stripped])
    password = PasswordField()
    organization = StringField(filters=[stripped])


@blueprint.route("/setup/<token>", methods=["GET", "POST"])
def first_owner(token: str) -> ResponseReturnValue:
    """Make the first owner; 404 once there is an account."""
    setup.check_token(_home(), token)
    form, errors = FirstOwnerForm(), {}
    if request.method == "POST":
        try:
            return _make(form, token)
        except Invalid as error:
            errors = refused(error)
    page = render_template("setup/first_owner.html", form=form, errors=errors, least=accounts.LEAST_PASSWORD)
    return page, 422 if errors else 200


def _make(form: FirstOwnerForm, token: str) -> ResponseReturnValue:
    organization = form.organization.data or ""
    arrival = setup.make_first_owner(
        _home(),
        token,
        name=form.name.data or "",
        email=form.email.data or "",
        password=form.password.data or "",
        organization=organization,
    )
    begin_session(arrival, how="set-up link")
    flash(f"You are the owner of {organization}. This link has ended.", "success")
    return redirect(url_for("organizations.environments", organization=organization), 303)


def _home() -> Path:
    home: Path = current_app.config["LOCKSTEP"].home
    return home
