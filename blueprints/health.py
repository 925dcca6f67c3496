"""Whether the web process answers, for the launcher and for load balancers."""

from __future__ import annotations

from flask import Blueprint

from extensions import db

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> tuple[str, int]:
    """200 "ok" when the database answers; tells nothing else. An unreachable database becomes the 503 page."""
    db.session.execute(db.text("SELECT 1"))
    return "ok\n", 200
