"""Who belongs to an organization: the list for all of them; roles and removal for owners; leaving for everybody."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.loading import load_membership
from policy.permissions import Role
from services import members
from services.errors import Invalid

blueprint = Blueprint("members", __name__, url_prefix="/terraform/<organization>/members")


@blueprint.get("")
@login_required
def index(organization: str) -> ResponseReturnValue:
    """Everybody who belongs to the organization."""
    found = load_membership(organization).organization
    return render_template("members/index.html", members=members.of(found), teams=members.teams(found))


@blueprint.post("/<person>/role")
@login_required
def role(organization: str, person: str) -> ResponseReturnValue:
    """Make a member an owner, or an owner a member."""
    membership = load_membership(organization)
    try:
        wanted = Role(request.form.get("role", ""))
    except ValueError:
        raise Invalid("role", "Choose owner or member. Nothing was changed.") from None
    members.change_role(membership, person, wanted)
    flash(f"{person} is {'an owner' if wanted is Role.OWNER else 'a member'} now.", "success")
    return redirect(url_for("members.index", organization=organization), 303)


@blueprint.post("/<person>/remove")
@login_required
def remove(organization: str, person: str) -> ResponseReturnValue:
    """Take somebody out at once."""
    members.remove(load_membership(organization), person)
    flash(f"{person} is removed and signed out everywhere.", "success")
    return redirect(url_for("members.index", organization=organization), 303)


@blueprint.post("/leave")
@login_required
def leave(organization: str) -> ResponseReturnValue:
    """Take oneself out, which signs one out too."""
    members.leave(load_membership(organization))
    flash(f"You have left {organization}.", "success")
    return redirect(url_for("organizations.index"), 303)
