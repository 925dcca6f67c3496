"""The variables of an organization, of an environment, and a person's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import problems, refused
from blueprints.incoming import whole
from blueprints.loading import load_environment, load_membership, person
from blueprints.variable_panels import CheckList, Panel, Typed, VariableForm, inherited, may_edit
from models import Category, Environment, Membership
from services import organizations, variables
from services.errors import Invalid, NotFound, Outdated
from services.variables import Place

blueprint = Blueprint("variables", __name__)

_SHARED = "/settings/organization_variables"
_ONE = "/terraform/<organization>/environments/<environment>/variables"


@blueprint.get(_SHARED)
@login_required
def organization() -> ResponseReturnValue:
    """Shared and personal variables of one organization, and the check list for MFA."""
    memberships = organizations.memberships(person())
    name = request.args.get("organization")
    if name is None and not memberships:
        return redirect(url_for("organizations.index"))
    membership = load_membership(memberships[0].organization.name if name is None else name)
    return _organization_page(membership, _organization_panels(membership))


@blueprint.post(f"{_SHARED}/<organization>/<panel>")
@blueprint.post(f"{_SHARED}/<organization>/<panel>/<int:number>")
@login_required
def save_organization(organization: str, panel: str, number: int | None = None) -> ResponseReturnValue:
    """Make a variable in a panel, or change the one with this number."""
    membership = load_membership(organization)
    typed = _save(membership, _chosen(_organization_panels(membership), panel), number)
    if typed is None:
        return redirect(url_for(".organization", organization=organization, _anchor=panel), 303)
    return _organization_page(membership, _organization_panels(membership, panel, typed), typed.status)


@blueprint.post(f"{_SHARED}/<organization>/<panel>/<int:number>/delete")
@login_required
def delete_organization(organization: str, panel: str, number: int) -> ResponseReturnValue:
    """Delete a variable of a panel."""
    membership = load_membership(organization)
    _delete(membership, _chosen(_organization_panels(membership), panel), number)
    return redirect(url_for(".organization", organization=organization, _anchor=panel), 303)


@blueprint.get(_ONE)
@login_required
def environment(organization: str, environment: str) -> ResponseReturnValue:
    """Terraform variables, environment variables and the person's own for one environment."""
    membership, found = load_environment(organization, environment)
    return _environment_page(membership, found, _environment_panels(membership, found))


@blueprint.post(f"{_ONE}/<panel>")
@blueprint.post(f"{_ONE}/<panel>/<int:number>")
@login_required
def save_environment(organization: str, environment: str, panel: str, number: int | None = None) -> ResponseReturnValue:
    """Make a variable in a panel, or change the one with this number."""
    membership, found = load_environment(organization, environment)
    typed = _save(membership, _chosen(_environment_panels(membership, found), panel), number)
    if typed is None:
        return redirect(_environment_address(found, panel), 303)
    return _environment_page(membership, found, _environment_panels(membership, found, panel, typed), typed.status)


@blueprint.post(f"{_ONE}/<panel>/<int:number>/delete")
@login_required
def delete_environment(organization: str, environment: str, panel: str, number: int) -> ResponseReturnValue:
    """Delete a variable of a panel."""
    membership, found = load_environment(organization, environment)
    _delete(membership, _chosen(_environment_panels(membership, found), panel), number)
    return redirect(_environment_address(found, panel), 303)


def _save(membership: Membership, panel: Panel, number: int | None) -> Typed | None:
    """Save what was posted; what was typed when it is not accepted."""
    form = VariableForm(category=panel.category or Category.ENV)
    existing = None if number is None else variables.find(panel.place, number)
    if not form.validate():
        return Typed.of(form, panel.category or Category.ENV, existing, problems(form))
    category = panel.category or form.category.data
    try:
        saved = variables.save(
            membership,
            panel.place,
            category=category,
            name=form.name.data or "",
            value=form.value.data or "",
            sensitive=form.sensitive.data,
            hcl=form.hcl.data,
            variable_id=number,
            seen=form.seen.data or "",
        )
    except Invalid as error:
        return Typed.of(form, category, existing, refused(error))
    except Outdated as error:
        now = variables.find(panel.place, number or 0)
        return replace(Typed.of(form, category, now, error.fields), seen=now.mark, status=409)
    flash(f"{saved.name} saved. Plans and applies that start from now on use it.", "success")
    return None


def _delete(membership: Membership, panel: Panel, number: int) -> None:
    name = variables.delete(membership, panel.place, number, request.form.get("seen", ""))
    flash(f"{name} deleted.", "success")


def _chosen(panels: list[Panel], key: str) -> Panel:
    for panel in panels:
        if panel.key == key:
            return panel
    raise NotFound("No such panel.")


def _organization_panels(membership: Membership, key: str = "", typed: Typed | None = None) -> list[Panel]:
    places = {
        "shared": (Place(membership.organization), None),
        "personal": (Place(membership.organization, owner=membership.user), None),
    }
    base = {"organization": membership.organization.name}
    return _panels(membership, places, "organization", base, key, typed)


def _environment_panels(
    membership: Membership, environment: Environment, key: str = "", typed: Typed | None = None
) -> list[Panel]:
    here = Place(membership.organization, environment)
    places = {
        "terraform": (here, Category.TERRAFORM),
        "environment": (here, Category.ENV),
        "personal": (Place(membership.organization, environment, membership.user), None),
    }
    base = {"organization": membership.organization.name, "environment": environment.name}
    return _panels(membership, places, "environment", base, key, typed)


def _panels(
    membership: Membership,
    places: Mapping[str, tuple[Place, Category | None]],
    kind: str,
    base: Mapping[str, Any],
    key: str,
    typed: Typed | None,
) -> list[Panel]:
    editing = typed.variable_id if typed else request.args.get("edit", type=whole)
    return [
        Panel(
            name,
            place,
            category,
            may_edit(membership, place),
            show_at=url_for(f".{kind}", **base, _anchor=name),
            save_at=url_for(f".save_{kind}", **base, panel=name),
            editing=editing,
            typed=typed if name == key else None,
        )
        for name, (place, category) in places.items()
    ]


def _organization_page(membership: Membership, panels: list[Panel], status: int = 200) -> ResponseReturnValue:
    page = render_template(
        "variables/organization.html",
        panels=panels,
        check=CheckList.of(membership),
        memberships=organizations.memberships(membership.user),
    )
    return page, status


def _environment_page(
    membership: Membership, environment: Environment, panels: list[Panel], status: int = 200
) -> ResponseReturnValue:
    page = render_template("variables/environment.html", panels=panels, inherited=inherited(membership, environment))
    return page, status


def _environment_address(environment: Environment, panel: str) -> str:
    organization = environment.organization.name
    return url_for(".environment", organization=organization, environment=environment.name, _anchor=panel)
