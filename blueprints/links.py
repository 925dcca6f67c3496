"""One-time links: opening one, forgetting a password, and the owners' page from which they are made."""

from __future__ import annotations

import threading
import time

from flask import Blueprint, Flask, current_app, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required

from blueprints.forms import refused
from blueprints.loading import load_membership, person
from blueprints.sessions import IDENTITY, KEPT_LINK, first_step
from models import LinkKind, Membership, OneTimeLink
from policy.permissions import Permission, Role
from services import access, links, mail, members, second_factor, throttle
from services.errors import Invalid, NotFound
from services.single_sign_on import Identity
from services.throttle import Throttled

blueprint = Blueprint("links", __name__)

_IDENTITY_SECONDS = 1800
_OWNERS = "Only owners say how people sign in. Nothing was changed."


@blueprint.get("/link/<secret>")
def arrive(secret: str) -> ResponseReturnValue:
    """Take the secret out of the address at once: it is in no history, and no page sends it on."""
    session[KEPT_LINK] = secret
    return redirect(url_for("links.show"), 303)


@blueprint.get("/link")
def show() -> ResponseReturnValue:
    """What the link is for."""
    return _opened(_link())


@blueprint.post("/link")
def take() -> ResponseReturnValue:
    """Use the link."""
    link = _link()
    try:
        return _take(link)
    except Invalid as error:
        return _opened(_link(), refused(error)), 422


@blueprint.route("/login/forgot", methods=["GET", "POST"])
def forgot() -> ResponseReturnValue:
    """Ask for a link to a new password by mail. The answer is the same whether there is such an account."""
    if not may_forget():
        raise NotFound("There is no such page.")
    if request.method == "GET":
        return render_template("auth/forgot.html", sent=False)
    typed = request.form.get("who", "").strip()[:254]
    try:
        throttle.take(throttle.of_address("forgot"), throttle.of_words("forgotten", typed))
    except Throttled as error:
        return (
            render_template("auth/forgot.html", sent=False, error=str(error)),
            429,
            {"Retry-After": str(error.waiting)},
        )
    # Beside the answer, which takes as long for a name that nobody has.
    app = current_app._get_current_object()
    threading.Thread(target=_mail, args=(app, typed), daemon=True, name="forgotten").start()
    return render_template("auth/forgot.html", sent=True)


@blueprint.get("/terraform/<organization>/signing-in")
@login_required
def index(organization: str) -> ResponseReturnValue:
    """For owners: whether a second factor is required, the invitations, and help for who cannot get in."""
    return _page(_owner(organization))


@blueprint.post("/terraform/<organization>/signing-in/second-factor")
@login_required
def require(organization: str) -> ResponseReturnValue:
    """Require a second factor of everybody, or no longer."""
    required = request.form.get("required") == "on"
    second_factor.require(_owner(organization), required)
    flash("A second factor is required now." if required else "A second factor is no longer required.", "success")
    return redirect(url_for("links.index", organization=organization), 303)


@blueprint.post("/terraform/<organization>/invitations")
@login_required
def invite(organization: str) -> ResponseReturnValue:
    """Make an invitation; its link is in this answer and never again, and mailed where an address was given."""
    by, email = _owner(organization), request.form.get("email", "").strip()
    role = Role.OWNER if request.form.get("role") == Role.OWNER.value else Role.MEMBER
    try:
        address = _address(links.invite(by, role, email))
    except Invalid as error:
        return _page(by, errors=refused(error)), 422
    told = _mailed(by, email, address) if email and mail.configured() else "Pass it on yourself."
    return _page(by, made=address, about=f"Invitation as {role.value}, good for two days. {told}"), 201


@blueprint.post("/terraform/<organization>/invitations/<int:number>/revoke")
@login_required
def revoke(organization: str, number: int) -> ResponseReturnValue:
    """End an invitation."""
    links.revoke(_owner(organization), number)
    flash("The invitation is revoked.", "success")
    return redirect(url_for("links.index", organization=organization), 303)


@blueprint.post("/terraform/<organization>/signing-in/<name>/reset-link")
@login_required
def reset(organization: str, name: str) -> ResponseReturnValue:
    """Make a link to a new password for a member; it is in this answer and never again."""
    by = _owner(organization)
    address = _address(links.reset_for(by, name))
    return _page(by, made=address, about=f"New password for {name}, good for an hour. Pass it on yourself."), 201


@blueprint.post("/terraform/<organization>/signing-in/<name>/second-factor")
@login_required
def reset_second_factor(organization: str, name: str) -> ResponseReturnValue:
    """Take a member's second factor away."""
    by = _owner(organization)
    second_factor.reset(by, links.helped(by, name))
    flash(f"{name} has no second factor now and can set up a new one.", "success")
    return redirect(url_for("links.index", organization=organization), 303)


@blueprint.app_template_global("may_forget")
def may_forget() -> bool:
    """Whether somebody can have a link to a new password mailed."""
    return mail.configured() and current_app.config["LOCKSTEP"].password_sign_in


def _link() -> OneTimeLink:
    return links.look_up(str(session.get(KEPT_LINK, "")))


def _opened(link: OneTimeLink, errors: dict[str, str] | None = None) -> str:
    page = "auth/reset.html" if link.kind is LinkKind.PASSWORD_RESET else "auth/invitation.html"
    return render_template(page, link=link, errors=errors or {}, form=request.form, identity=_identity())


def _identity() -> Identity | None:
    """Whom the provider vouched for, not long ago, on the way to this invitation."""
    kept = session.get(IDENTITY)
    if not isinstance(kept, dict) or not 0 <= time.time() - kept["at"] <= _IDENTITY_SECONDS:
        return None
    return Identity(kept["issuer"], kept["subject"], kept["name"], kept["email"])


def _take(link: OneTimeLink) -> ResponseReturnValue:
    form = request.form
    if link.kind is LinkKind.INVITATION:
        name = link.organization.name if link.organization else ""
        there = url_for("organizations.environments", organization=name)
        if current_user.is_authenticated:
            links.join(link, person())
            session.pop(KEPT_LINK, None)
            flash(f"You belong to {name} now.", "success")
            return redirect(there, 303)
        typed, identity = (form.get("name", "").strip(), form.get("email", "").strip()), _identity()
        if identity is not None:
            arrival = links.sign_up_with(link, *typed, identity)
        else:
            arrival = links.sign_up(link, *typed, form.get("password", ""))
        return first_step(arrival, onward=there, how="invitation")
    if form.get("password") != form.get("again"):
        raise Invalid("again", "That is not the same as the new password.")
    links.new_password(link, form.get("password", ""))
    session.pop(KEPT_LINK, None)
    flash("Your password is changed, and you are signed out everywhere. Sign in with it.", "success")
    return redirect(url_for("auth.login"), 303)


def _owner(organization: str) -> Membership:
    by = load_membership(organization)
    access.require(by, Permission.MANAGE_MEMBERS, _OWNERS)
    return by


def _address(secret: str) -> str:
    """The link as it is shown to the owner, below the address of this very page unless PUBLIC_URL says another."""
    base = current_app.config["LOCKSTEP"].public_url or request.url_root.rstrip("/")
    return str(base) + url_for("links.arrive", secret=secret)


def _mail(app: Flask, typed: str) -> None:
    with app.app_context():
        links.mail_reset(typed, f"{app.config['LOCKSTEP'].public_url}/link/")


def _mailed(by: Membership, email: str, address: str) -> str:
    try:
        links.mail_invitation(by, email, address)
    except mail.MailFailed as error:
        return f"{error} Pass it on yourself."
    return f"It was mailed to {email}."


def _page(by: Membership, made: str = "", about: str = "", errors: dict[str, str] | None = None) -> str:
    return render_template(
        "auth/signing_in.html", by=by, made=made, about=about, errors=errors or {}, form=request.form,
        invitations=links.invitations(by.organization), people=members.of(by.organization), mails=mail.configured(),
        passwords=current_app.config["LOCKSTEP"].password_sign_in,
    )  # fmt: skip
