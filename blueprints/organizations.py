"""The lists: a person's organizations, and an organization's environments."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints import effective
from blueprints.loading import load_membership, person
from models import Membership, Run
from policy.lifecycle import RunStatus
from services import environments as environment_service
from services import members, organizations, runs

blueprint = Blueprint("organizations", __name__)

_WAITING = (
    RunStatus.AWAITING_PLAN_AUTHENTICATION,
    RunStatus.AWAITING_CONFIRMATION,
    RunStatus.AWAITING_APPLY_AUTHENTICATION,
)


@blueprint.get("/")
@login_required
def index() -> ResponseReturnValue:
    """The person's organizations; the only one is gone to at once."""
    memberships = organizations.memberships(person())
    if len(memberships) == 1:
        return redirect(url_for("organizations.environments", organization=memberships[0].organization.name))
    counts = {m.organization_id: len(environment_service.environments(m)) for m in memberships}
    return render_template("organizations/index.html", memberships=memberships, counts=counts)


@blueprint.get("/terraform/<organization>")
@login_required
def environments(organization: str) -> ResponseReturnValue:
    """The organization's environments with their latest runs, or the first steps."""
    membership = load_membership(organization)
    found = environment_service.environments(membership)
    if not found:
        return _first_steps(membership)
    newest = runs.newest(found)
    return render_template(
        "organizations/environments.html", environments=found, newest=newest, waiting=_waiting(newest)
    )


def _first_steps(membership: Membership) -> ResponseReturnValue:
    resolved = effective.values(membership.user, membership.organization)
    return render_template(
        "organizations/first_steps.html",
        missing=resolved.missing_for_mfa if resolved else [],
        unreadable=resolved is None,
        owners=members.owners(membership.organization),
    )


def _waiting(newest: dict[int, Run]) -> int:
    return sum(run.status in _WAITING for run in newest.values())
