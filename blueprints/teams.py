"""Teams: the list and each one's people for everybody in the organization, changes for owners."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import refused
from blueprints.loading import load_membership
from models import Membership, Team
from policy.permissions import Permission
from services import members, teams
from services.errors import Invalid

blueprint = Blueprint("teams", __name__, url_prefix="/terraform/<organization>/teams")


@blueprint.get("")
@login_required
def index(organization: str) -> ResponseReturnValue:
    """The teams and who is in them."""
    return _list(load_membership(organization))


@blueprint.post("")
@login_required
def create(organization: str) -> ResponseReturnValue:
    """A new team."""
    membership = load_membership(organization)
    try:
        made = teams.create(membership, request.form.get("name", "").strip())
    except Invalid as error:
        return _list(membership, refused(error)), 422
    flash(f"Team {made.name} made. Add its people here.", "success")
    return _to(organization, made)


@blueprint.get("/<int:number>")
@login_required
def show(organization: str, number: int) -> ResponseReturnValue:
    """One team."""
    membership = load_membership(organization)
    return _page(membership, teams.team(membership, number))


@blueprint.post("/<int:number>/name")
@login_required
def rename(organization: str, number: int) -> ResponseReturnValue:
    """Another name for it."""
    membership = load_membership(organization)
    team = _shown(membership, number)
    try:
        teams.rename(membership, team, request.form.get("name", "").strip())
    except Invalid as error:
        return _page(membership, team, refused(error)), 422
    flash("Renamed.", "success")
    return _to(organization, team)


@blueprint.post("/<int:number>/delete")
@login_required
def delete(organization: str, number: int) -> ResponseReturnValue:
    """Delete it, with what it had access to."""
    membership = load_membership(organization)
    team = _shown(membership, number)
    name = team.name
    teams.remove(membership, team)
    flash(f"Team {name} is deleted. What its people had access to by it alone, they have no more.", "success")
    return redirect(url_for("teams.index", organization=organization), 303)


@blueprint.post("/<int:number>/members")
@login_required
def add(organization: str, number: int) -> ResponseReturnValue:
    """Put a member into it."""
    membership = load_membership(organization)
    team, name = _shown(membership, number), request.form.get("person", "")
    try:
        teams.add(membership, team, name)
    except Invalid as error:
        return _page(membership, team, refused(error)), 422
    flash(f"{name} is in the team now.", "success")
    return _to(organization, team)


@blueprint.post("/<int:number>/members/<person>/remove")
@login_required
def take_out(organization: str, number: int, person: str) -> ResponseReturnValue:
    """Take somebody out of it."""
    membership = load_membership(organization)
    team = _shown(membership, number)
    teams.take_out(membership, team, person)
    flash(f"{person} is no longer in the team.", "success")
    return _to(organization, team)


def _shown(membership: Membership, number: int) -> Team:
    """The team that the page showed which this form is from."""
    return teams.team(membership, number, seen=request.form.get("team", ""))


def _list(membership: Membership, errors: dict[str, str] | None = None) -> str:
    found = membership.organization
    return render_template("teams/index.html", teams=teams.of(found), people=teams.people(found), errors=errors or {})


def _page(membership: Membership, team: Team, errors: dict[str, str] | None = None) -> str:
    people = teams.people(membership.organization)[team.id]
    inside = {user.id for user in people}
    owner = membership.may(Permission.MANAGE_TEAMS)
    return render_template(
        "teams/show.html",
        team=team,
        people=people,
        others=[one.user for one in members.of(membership.organization) if one.user_id not in inside] if owner else [],
        # Members see a team's people, not which environments there are.
        grants=teams.grants(team) if owner else None,
        errors=errors or {},
    )


def _to(organization: str, team: Team) -> ResponseReturnValue:
    return redirect(url_for("teams.show", organization=organization, number=team.id), 303)
