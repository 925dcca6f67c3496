"""The states of an environment: listed, compared, as files, replaced; and the lock of somebody's terminal."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import refused
from blueprints.incoming import whole
from blueprints.loading import load_environment
from models import Environment, Membership, StateVersion
from policy.permissions import Permission
from services import holds, state_comparison, state_downloads, state_locks, state_writes, states
from services.access import require
from services.errors import Conflict, Invalid

blueprint = Blueprint("states", __name__, url_prefix="/terraform/<organization>/environments/<environment>/states")

PAGE = 25
#: How many changed resources a page shows at first, as everywhere.
SHOWN = 50
#: What a form adds to the file that it carries.
_SLACK = 64 * 1024


@blueprint.app_context_processor
def _words() -> dict[str, Any]:
    """For every page of an environment: who holds it."""
    return {"holders": holds.holders, "may_take_off": state_locks.may_take_off}


@blueprint.url_value_preprocessor
def _let_states_in(endpoint: str | None, _values: dict[str, Any] | None) -> None:
    """Raise the limit for a signed-in person's upload, before the form is read to check its CSRF token."""
    if endpoint == "states.upload" and "_user_id" in session:
        request.max_content_length = current_app.config["LOCKSTEP"].max_state_bytes + _SLACK


@blueprint.get("")
@login_required
def index(organization: str, environment: str) -> ResponseReturnValue:
    """The versions, newest first, a page of them."""
    _, found = load_environment(organization, environment)
    before = request.args.get("before", type=whole)
    versions = states.versions(found, before, PAGE + 1)
    current = versions[0] if versions and before is None else states.latest(found.id)
    older = versions[PAGE - 1].number if len(versions) > PAGE else None
    restored = state_comparison.serials(found, [version.restored_number for version in versions])
    return render_template(
        "states/index.html", versions=versions[:PAGE], current=current, before=before, older=older, restored=restored
    )


@blueprint.get("/<int:number>")
@login_required
def download(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """One version as terraform wrote it."""
    membership, found = load_environment(organization, environment)
    serial, content = state_downloads.download(membership, found, number)
    name = f"{found.name}-serial-{serial}.tfstate"
    return Response(
        content,
        mimetype="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@blueprint.get("/compare")
@login_required
def compare(organization: str, environment: str) -> ResponseReturnValue:
    """What differs between two versions; without ``from`` against the one before, without ``to`` of the current one."""
    membership, found = load_environment(organization, environment)
    compared = state_comparison.compare(
        membership, found, request.args.get("from", type=whole), request.args.get("to", type=whole)
    )
    shown = None if request.args.get("resources") == "all" else SHOWN
    return render_template("states/compare.html", compared=compared, shown=shown)


@blueprint.route("/<int:number>/rollback", methods=["GET", "POST"])
@login_required
def rollback(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """Go back to the content of an older version, after typing its serial."""
    membership, found = load_environment(organization, environment)
    require(membership, Permission.REPLACE_STATE, "Only admins of this environment can roll a state back.", found)
    if request.method == "GET":
        return _rollback_page(membership, found, number)
    typed, seen = request.form.get("serial", ""), request.form.get("seen", 0, type=whole)
    try:
        version = state_writes.roll_back(membership, found, number, typed_serial=typed, seen=seen)
    except Invalid as error:
        return _rollback_page(membership, found, number, refused(error)), 422
    flash(
        f"Rolled back: serial {version.serial} is the current state now. Queue a plan to see the difference.", "success"
    )
    return _to_list(found)


def _rollback_page(
    membership: Membership, environment: Environment, number: int, errors: dict[str, str] | None = None
) -> str:
    current = states.latest(environment.id)
    if current is not None and current.number == number:
        raise Conflict("That is the current state already. Nothing was changed.")
    compared = state_comparison.compare(membership, environment, current.number if current else None, number)
    return render_template(
        "states/rollback.html",
        compared=compared,
        current=current,
        errors=errors or {},
        shown=SHOWN,
        hindering=holds.hindering(environment, membership.user),
    )


@blueprint.route("/upload", methods=["GET", "POST"])
@login_required
def upload(organization: str, environment: str) -> ResponseReturnValue:
    """Make a state file the current state."""
    membership, found = load_environment(organization, environment)
    require(membership, Permission.REPLACE_STATE, "Only admins of this environment can upload a state.", found)
    if request.method == "GET":
        return _upload_page(membership, found)
    file = request.files.get("state")
    try:
        if file is None or not file.filename:
            raise Invalid("state", "Choose a state file.")
        version = _uploaded(membership, found, file.read())
    except Invalid as error:
        return _upload_page(membership, found, refused(error)), 422
    flash(f"Serial {version.serial} is the current state now. Queue a plan to see what differs from AWS.", "success")
    return _to_list(found)


def _uploaded(membership: Membership, environment: Environment, content: bytes) -> StateVersion:
    force = request.form.get("force") == "yes"
    return state_writes.upload(membership, environment, content, force=force, typed_name=request.form.get("name", ""))


def _upload_page(membership: Membership, environment: Environment, errors: dict[str, str] | None = None) -> str:
    return render_template(
        "states/upload.html",
        current=states.latest(environment.id),
        errors=errors or {},
        hindering=holds.hindering(environment, membership.user, upload=True),
        most=current_app.config["LOCKSTEP"].max_state_bytes >> 20,
    )


@blueprint.get("/terminal")
@login_required
def terminal(organization: str, environment: str) -> ResponseReturnValue:
    """How to use this state from one's own terminal."""
    load_environment(organization, environment)
    address = url_for("api_states.read", organization=organization, environment=environment, _external=True)
    return render_template("states/terminal.html", address=address)


@blueprint.post("/unlock")
@login_required
def unlock(organization: str, environment: str) -> ResponseReturnValue:
    """Take off the lock that somebody's terminal holds."""
    membership, found = load_environment(organization, environment)
    state_locks.take_off(membership, found, request.form.get("lock", ""))
    flash("The terminal’s lock is taken off. Runs that waited for it start now.", "success")
    return redirect(url_for("environments.settings", organization=organization, environment=environment), 303)


def _to_list(environment: Environment) -> ResponseReturnValue:
    organization = environment.organization.name
    return redirect(url_for("states.index", organization=organization, environment=environment.name), 303)
