"""Who has access to an environment, for its admins."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import refused
from blueprints.loading import here, load_environment
from models import Environment
from policy.permissions import Access, Permission
from services import grants, members
from services.access import authority, require
from services.errors import Invalid

blueprint = Blueprint("access", __name__, url_prefix="/terraform/<organization>/environments/<environment>/access")


@blueprint.get("")
@login_required
def index(organization: str, environment: str) -> ResponseReturnValue:
    """The teams and people who have access."""
    membership, found = load_environment(organization, environment)
    require(membership, Permission.MANAGE_ACCESS, "Only admins of this environment see who has access to it.", found)
    return _page(found)


@blueprint.post("")
@login_required
def give(organization: str, environment: str) -> ResponseReturnValue:
    """Give a team or a person access."""
    membership, found = load_environment(organization, environment)
    kind, _, name = request.form.get("holder", "").partition(":")
    team, person = (name if kind == "team" else ""), (name if kind == "person" else "")
    try:
        made = grants.give(membership, found, _level(), team=team, person=person)
    except Invalid as error:
        return _page(found, refused(error)), 422
    flash(f"{grants.holder(made)} has {made.access.value} access now.", "success")
    return _back(found)


@blueprint.post("/<int:number>")
@login_required
def change(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """Give somebody who has access more or less of it."""
    membership, found = load_environment(organization, environment)
    try:
        seen = request.form.get("seen", "")
        grant = grants.change(membership, found, number, _level(), whose=_whose(), seen=seen)
    except Invalid as error:
        return _page(found, {f"grant-{number}": str(error)}), 422
    flash(f"{grants.holder(grant)} has {grant.access.value} access now.", "success")
    return _back(found)


@blueprint.post("/<int:number>/remove")
@login_required
def remove(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """Take access away."""
    membership, found = load_environment(organization, environment)
    name = grants.holder(grants.remove(membership, found, number, whose=_whose()))
    flash(f"The access of {name} is taken away.", "success")
    return _back(found)


def _whose() -> str:
    return request.form.get("holder", "")


def _level() -> Access:
    try:
        return Access(request.form.get("access", ""))
    except ValueError:
        raise Invalid("access", "Choose read, write or admin.") from None


def _page(environment: Environment, errors: dict[str, str] | None = None) -> str:
    teams, people = grants.candidates(environment)
    return render_template(
        "environments/access.html",
        grants=grants.of(environment),
        mark=grants.mark,
        teams=teams,
        people=people,
        owners=members.owners(environment.organization),
        levels=list(Access),
        errors=errors or {},
    )


def _back(environment: Environment) -> ResponseReturnValue:
    """To the list, or where a person can still go who took the access of their own away."""
    now, name = authority(here().membership, environment), environment.organization.name
    if not now.may(Permission.READ):
        return redirect(url_for("organizations.environments", organization=name), 303)
    page = "access.index" if now.may(Permission.MANAGE_ACCESS) else "runs.index"
    return redirect(url_for(page, organization=name, environment=environment.name), 303)
