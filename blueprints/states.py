"""The states of an environment: a list, and each as a file."""

from __future__ import annotations

from flask import Blueprint, Response, render_template
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.loading import load_environment
from services import state_downloads, states

blueprint = Blueprint("states", __name__, url_prefix="/terraform/<organization>/environments/<environment>/states")


@blueprint.get("")
@login_required
def index(organization: str, environment: str) -> ResponseReturnValue:
    """Every version, newest first."""
    _, found = load_environment(organization, environment)
    return render_template("states/index.html", versions=states.versions(found))


@blueprint.get("/<int:number>")
@login_required
def download(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """One version as terraform wrote it."""
    membership, found = load_environment(organization, environment)
    version, content = state_downloads.download(membership, found, number)
    name = f"{found.name}-serial-{version.serial}.tfstate"
    return Response(
        content,
        mimetype="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
