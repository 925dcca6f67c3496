"""The second factor: its step of signing in, setting it up, new recovery codes, turning it off."""

from __future__ import annotations

import segno
from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required
from markupsafe import Markup

from blueprints.forms import refused
from blueprints.loading import person
from blueprints.sessions import begin_session, forget_step, safe_path, waiting_step
from services import accounts, second_factor
from services.errors import Invalid
from services.throttle import Throttled

blueprint = Blueprint("second_factor", __name__)


@blueprint.route("/login/code", methods=["GET", "POST"])
def step() -> ResponseReturnValue:
    """The code after the password."""
    waits = waiting_step()
    if current_user.is_authenticated or waits is None:
        forget_step()
        return redirect(url_for("auth.login"), 303)
    if request.method == "GET":
        return render_template("auth/code.html")
    try:
        how = second_factor.check(waits.arrival.user, request.form.get("code", ""))
    except Throttled as error:
        return render_template("auth/code.html", error=str(error)), 429, {"Retry-After": str(error.waiting)}
    except Invalid as error:
        return render_template("auth/code.html", error=str(error)), 422
    if how is None:
        return render_template("auth/code.html", error="That code is not right, or it was used before."), 422
    begin_session(waits.arrival, remember=waits.remember, how=f"{waits.how} and {how}")
    return redirect(safe_path(waits.onward), 303)


@blueprint.get("/settings/second-factor")
@login_required
def show() -> ResponseReturnValue:
    """Whether there is one; the QR code of one that waits for its first code."""
    return _page()


@blueprint.post("/settings/second-factor/begin")
@login_required
def begin() -> ResponseReturnValue:
    """A new secret to scan."""
    second_factor.begin(person())
    return redirect(url_for("second_factor.show"), 303)


@blueprint.post("/settings/second-factor/confirm")
@login_required
def confirm() -> ResponseReturnValue:
    """The first code puts it in force; the recovery codes are in this answer and never again."""
    try:
        codes = second_factor.confirm(person(), request.form.get("code", ""))
    except Invalid as error:
        return _page(errors=refused(error)), 422
    return _page(codes), 201


@blueprint.post("/settings/second-factor/codes")
@login_required
def codes() -> ResponseReturnValue:
    """New recovery codes, shown this once."""
    try:
        made = second_factor.renew_codes(person(), request.form.get("code", ""))
    except Invalid as error:
        return _page(errors={"renew": str(error)}), 422
    return _page(made), 201


@blueprint.post("/settings/second-factor/off")
@login_required
def turn_off() -> ResponseReturnValue:
    """Turn it off, with the password, where there is one, and a code."""
    try:
        if person().password_hash:  # who has none proved lately by single sign-on that it is them
            accounts.check_own_password(person(), request.form.get("password", ""))
        second_factor.turn_off(person(), request.form.get("code", ""))
    except Invalid as error:
        return _page(errors={f"off_{error.field}": str(error)}), 422
    flash("The second factor is off.", "success")
    return redirect(url_for("second_factor.show"), 303)


def _page(made: list[str] | None = None, errors: dict[str, str] | None = None) -> str:
    user = person()
    secret = second_factor.secret(user)
    return render_template(
        "auth/second_factor.html",
        made=made,
        errors=errors or {},
        secret=" ".join(secret[n : n + 4] for n in range(0, len(secret), 4)) if secret else None,
        picture=_drawn(second_factor.address(user)) if secret else None,
        left=second_factor.left(user),
        required=[one.organization.name for one in second_factor.requiring(user)],
    )


def _drawn(text: str) -> Markup:
    """A QR code as inline SVG: dark on white in both colour schemes, which is what cameras read."""
    code = segno.make(text, error="m")
    drawing = code.svg_inline(
        scale=5, border=4, dark="#000", light="#fff", omitsize=True, svgclass="qr", lineclass=None
    )
    return Markup(drawing)  # noqa: S704  (drawn here; holds no text)
