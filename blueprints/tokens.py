"""A person's own API tokens: made and shown once, listed, revoked."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import refused
from blueprints.loading import person
from models import ApiToken, TokenScope
from services import tokens
from services.errors import Invalid

blueprint = Blueprint("tokens", __name__, url_prefix="/settings/tokens")

#: As in the form: days, "" for none.
_LIFETIMES = {"" if days is None else str(days): days for days in tokens.LIFETIMES}


@blueprint.get("")
@login_required
def index() -> ResponseReturnValue:
    """The person's tokens, and the form for a new one."""
    return _page()


@blueprint.post("")
@login_required
def create() -> ResponseReturnValue:
    """A new token, shown in this answer and never again: no cookie and no address holds it."""
    try:
        if request.form.get("days") not in _LIFETIMES:
            raise Invalid("days", "Choose one of the four.")
        made, text = tokens.create(person(), request.form.get("name", ""), _scope(), _LIFETIMES[request.form["days"]])
    except Invalid as error:
        return _page(errors=refused(error)), 422
    return _page(made, text), 201


@blueprint.post("/<int:number>/revoke")
@login_required
def revoke(number: int) -> ResponseReturnValue:
    """End a token at once."""
    token = tokens.revoke(person(), number)
    flash(f"{token.name} is revoked: nothing gets in with it any more.", "success")
    return redirect(url_for("tokens.index"), 303)


def _scope() -> TokenScope:
    try:
        return TokenScope(request.form.get("scope", ""))
    except ValueError:
        raise Invalid("scope", "Choose one of the two.") from None


def _page(made: ApiToken | None = None, text: str = "", errors: dict[str, str] | None = None) -> str:
    form = request.form if errors else {"scope": TokenScope.QUEUE.value, "days": "90"}
    mine = tokens.of(person())
    words = {"organization": "ORGANIZATION", "environment": "ENVIRONMENT"}
    address = url_for("api_runs.queue", **words, _external=True)
    shown = {"made": made, "text": text, "address": address}
    return render_template("tokens/index.html", tokens=mine, errors=errors or {}, form=form, **shown)
