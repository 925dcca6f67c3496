"""What happened: the audit page of an organization, its export, and the evidence of a run."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, render_template, request, stream_with_context
from flask.typing import ResponseReturnValue
from flask_login import login_required

from blueprints.forms import refused
from blueprints.incoming import whole
from blueprints.loading import load_membership, load_run
from services import audit_log, evidence
from services.audit_log import Filters
from services.errors import Invalid

blueprint = Blueprint("audit", __name__, url_prefix="/terraform/<organization>")

#: Events on one page.
PAGE = 50
_KINDS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl; charset=utf-8"}
#: The details in which two values are before and after.
_CHANGES = frozenset(("access", "changed", "role", "status", "team", "worker"))
_RUN = "/environments/<environment>/changes/runs/<int:number>"


@blueprint.get("/audit")
@login_required
def index(organization: str) -> ResponseReturnValue:
    """The events of the organization that match, newest first."""
    membership = load_membership(organization)
    before, errors, events = request.args.get("before", type=whole), {}, []
    try:
        events = audit_log.page(membership, _filters(), before, PAGE + 1)
    except Invalid as error:
        errors = refused(error)
    told = audit_log.facts(membership.organization, events[:PAGE])
    older = told[-1]["sequence"] if len(events) > PAGE else None
    names: dict[str, Any] = {"times": {made.sequence: made.at for made in events}, "asked": _asked(), "older": older}
    choices = audit_log.choices(membership)
    page = render_template("audit/index.html", events=told, choices=choices, errors=errors, before=before, **names)
    return page, 422 if errors else 200


@blueprint.get("/audit.<any(csv, jsonl):kind>")
@login_required
def export(organization: str, kind: str) -> ResponseReturnValue:
    """The same as a file, oldest first."""
    lines = audit_log.export(load_membership(organization), _filters(), kind)
    response = Response(stream_with_context(lines), content_type=_KINDS[kind])
    response.headers.set("Content-Disposition", "attachment", filename=f"{organization}-audit.{kind}")
    return response


@blueprint.get(f"{_RUN}/evidence")
@login_required
def of_run(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """What stands about a run, to read and to print."""
    _, run = load_run(organization, environment, number)
    return render_template("audit/evidence.html", run=run, evidence=evidence.facts(run))


@blueprint.get(f"{_RUN}/evidence.json")
@login_required
def of_run_as_file(organization: str, environment: str, number: int) -> ResponseReturnValue:
    """The same as a file; of a run that has ended always the same."""
    _, run = load_run(organization, environment, number)
    text = json.dumps(evidence.facts(run), indent=2, sort_keys=True) + "\n"
    response = Response(text, content_type="application/json")
    name = f"{organization}-{environment}-{number}-evidence.json"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _filters() -> Filters:
    names = {"who": "who", "action": "action", "environment": "environment", "first": "from", "last": "to"}
    asked = _asked()
    return Filters(**{field: asked.get(name, "") for field, name in names.items()})


def _asked() -> dict[str, str]:
    """The filters that are set, as they stand in the address."""
    names = ("who", "action", "environment", "from", "to")
    # PostgreSQL takes no NUL in text, and no name has one.
    found = {name: request.args.get(name, "").strip().replace("\0", "\ufffd")[:200] for name in names}
    return {name: value for name, value in found.items() if value}


@blueprint.app_template_filter()
def told(value: Any, name: str) -> str:
    """A detail of this name as a person reads it: a pair is before → after where the detail is a change."""
    if isinstance(value, dict):
        return ", ".join(f"{inner} {told(part, name)}" for inner, part in sorted(value.items()))
    if isinstance(value, list):
        parts = [" ".join(map(str, part)) if isinstance(part, list) else told(part, "") for part in value]
        change = name in _CHANGES and len(value) == 2 and not isinstance(value[0], list)
        return (" → " if change else ", ").join(parts)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)
