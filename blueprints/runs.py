"""The Changes tab and the pages of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask import stream_with_context as streamed
from flask_login import decode_cookie, login_required
from markupsafe import Markup

from blueprints import log_view, run_steps, run_view
from blueprints.loading import is_fragment, load_environment, load_run, person
from blueprints.presentation import asset
from models import Environment, Membership, Run
from policy.mfa import PhaseKind
from services import configurations, run_pages, runs
from services.errors import CodeRejected, Conflict, Invalid, LockstepError, ServiceAway
from services.mfa import gate
from services.storage import logs

blueprint = Blueprint("runs", __name__, url_prefix="/terraform/<organization>/environments/<environment>")

#: Runs on one page of the list.
PAGE = 25

#: How much larger than the largest archive a request may be, in bytes. An archive that is a little too large is
#: answered on the form, one that is far too large without reading it.
SLACK = 8 * 1024 * 1024

#: Where Flask-Login keeps who is signed in.
_USER = "_user_id"


@blueprint.url_value_preprocessor
def _let_archives_in(endpoint: str | None, _values: dict[str, Any] | None) -> None:
    """Raise the limit for people who are signed in, before the form is read to check its CSRF token.

    Their signed cookies are enough here: a look into the database would hold a transaction while the archive comes.
    """
    if endpoint == "runs.upload" and (_USER in session or decode_cookie(_remembered()) is not None):
        request.max_content_length = current_app.config["LOCKSTEP"].max_archive_bytes + SLACK


def _remembered() -> str:
    return request.cookies.get(current_app.config["REMEMBER_COOKIE_NAME"], "")


@blueprint.context_processor
def _words() -> dict[str, Any]:
    symbol = '<svg class="icon chevron" aria-hidden="true"><use href="{}#chevron-right"/></svg>'
    chevron = Markup(symbol).format(asset("icons.svg"))  # noqa: S704  (the text above)
    return {"chevron": chevron, "run_time": run_steps.run_time}


@blueprint.before_request
@login_required
def _signed_in() -> None:
    """Every page here is for people who are signed in."""


@blueprint.get("")
@blueprint.get("/changes")
def overview(organization: str, environment: str) -> Any:
    load_environment(organization, environment)
    return redirect(url_for("runs.index", organization=organization, environment=environment))


@blueprint.get("/changes/runs")
def index(organization: str, environment: str) -> Any:
    membership, found = load_environment(organization, environment)
    return _list(membership, found, request.args.get("before", type=int))


@blueprint.post("/changes/configurations")
def upload(organization: str, environment: str) -> Any:
    membership, found = load_environment(organization, environment)
    if (already := _queued_already(found)) is not None:
        return already
    file = request.files.get("archive")
    try:
        if file is None or not file.filename:
            raise Invalid("archive", "Choose a .tar.gz or .zip archive of your Terraform files.")
        message = request.form.get("message", "")
        version = configurations.upload(membership, found, cast(Any, file.stream), file.filename, message)
        # No lock was held while the archive was looked at: a second click may have been quicker.
        if (already := _queued_already(found)) is not None:
            return already
        return _to(runs.create_run(membership, found, version))
    except Invalid as error:
        return _list(membership, found, None, {error.field: str(error)}), 422


@blueprint.post("/changes/runs")
def queue(organization: str, environment: str) -> Any:
    membership, found = load_environment(organization, environment)
    if (already := _queued_already(found)) is not None:
        return already
    version = configurations.latest(found)
    if version is None:
        raise Conflict("There is no configuration yet. Upload one first; that queues a plan, too.")
    return _to(runs.create_run(membership, found, version))


@blueprint.get("/changes/runs/<int:number>")
def show(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _page(membership, run)


@blueprint.get("/changes/runs/<int:number>/status")
def status(organization: str, environment: str, number: int) -> Any:
    """What changed since the page got its parts; 204 when nothing did."""
    membership, run = load_run(organization, environment, number)
    view = run_view.build(membership, run, all_resources=request.args.get("resources") == "all")
    seen = request.args.to_dict()
    if not view.changed(seen) and not view.logs_missing(seen):
        return "", 204
    return _fragment(view, view.changed(seen))


@blueprint.get("/changes/runs/<int:number>/<any(plan, apply):kind>/log")
def log(organization: str, environment: str, number: int, kind: str) -> Any:
    """The lines from a byte offset on; 204 when there are none yet."""
    _, run = load_run(organization, environment, number)
    offset = request.args.get("offset", 0, type=int)
    view = log_view.poll(run, PhaseKind(kind), offset)
    if view.live and not view.html and view.end == offset:
        return "", 204
    return render_template("runs/_log_tail.html", log=view, run=run)


@blueprint.get("/changes/runs/<int:number>/<any(plan, apply):kind>/log.txt")
def raw_log(organization: str, environment: str, number: int, kind: str) -> Response:
    _, run = load_run(organization, environment, number)
    pieces = logs.raw(run.phase(PhaseKind(kind)).id)
    response = Response(streamed(pieces), content_type="text/plain; charset=utf-8")
    response.headers.set("Content-Disposition", "attachment", filename=f"{environment}-{number}-{kind}.log")
    return response


@blueprint.post("/changes/runs/<int:number>/authenticate")
def authenticate(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(membership, run, lambda: gate.authenticate(membership, run, request.form.get("token", "")))


@blueprint.post("/changes/runs/<int:number>/confirm")
def confirm(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(membership, run, lambda: runs.confirm(membership, run))


@blueprint.post("/changes/runs/<int:number>/discard")
def discard(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(membership, run, lambda: runs.discard(membership, run))


@blueprint.post("/changes/runs/<int:number>/cancel")
def cancel(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(membership, run, lambda: runs.cancel(membership, run))


def _act(membership: Membership, run: Run, action: Callable[[], object]) -> Any:
    """Do it, then show the run as it is: a fragment, a redirect to its page, or its page with what went wrong."""
    try:
        action()
    except CodeRejected as rejected:
        response = _answer(membership, run, rejected.status, rejected=rejected)
        if rejected.status == 429 and rejected.waiting:
            response.headers["Retry-After"] = str(rejected.waiting)
        return response
    except (Conflict, ServiceAway) as error:
        run_pages.reload(run)
        return _answer(membership, run, 409 if isinstance(error, Conflict) else 503, notice=error)
    return _answer(membership, run, 200) if is_fragment() else _to(run)


def _answer(
    membership: Membership,
    run: Run,
    status: int,
    *,
    rejected: CodeRejected | None = None,
    notice: LockstepError | None = None,
) -> Response:
    if not is_fragment():
        return make_response(_page(membership, run, rejected=rejected, notice=notice), status)
    view = run_view.build(membership, run, rejected=rejected)
    # The gate always: its field must be empty again, and what went wrong stands there.
    parts = [name for name in run_view.PARTS if name == "gate" or name in view.changed(request.form)]
    return make_response(_fragment(view, [name for name in parts if name != "session"], notice), status)


def _page(
    membership: Membership,
    run: Run,
    rejected: CodeRejected | None = None,
    notice: LockstepError | None = None,
) -> str:
    everything = {name: request.args.get(name) == "all" for name in ("resources", "log")}
    view = run_view.build(
        membership,
        run,
        all_resources=everything["resources"],
        whole_log=everything["log"],
        rejected=rejected,
    )
    return render_template("runs/show.html", view=view, run=run, gate=view.gate, tab="changes", problem=notice)


def _fragment(view: run_view.RunView, parts: list[str], notice: LockstepError | None = None) -> str:
    seen = request.values
    kinds = view.logs_missing(seen)
    begun = seen.get("logs", "").split()
    return render_template(
        "runs/_fragment.html", view=view, run=view.run, parts=parts, kinds=kinds, begun=begun, problem=notice
    )


def _list(
    membership: Membership, environment: Environment, before: int | None, errors: dict[str, str] | None = None
) -> str:
    found = runs.recent(environment, before, PAGE + 1)
    total, waiting = run_pages.counted(environment)
    return render_template(
        "runs/index.html",
        tab="changes",
        membership=membership,
        environment=environment,
        configuration=configurations.latest(environment),
        limits=configurations.limits(),
        runs=found[:PAGE],
        older=found[PAGE - 1].number if len(found) > PAGE else None,
        before=before,
        total=total,
        waiting=waiting,
        errors=errors or {},
    )


def _queued_already(environment: Environment) -> Response | None:
    """A double click, or another one on a page that is out of date, ends at the run that the first one queued."""
    seen = request.form.get("seen", type=int)
    run = None if seen is None else run_pages.queued_since(environment, person(), seen)
    if run is None:
        return None
    flash(f"You queued run #{run.number} from that page already, so no second one was made.", "info")
    return _to(run)


def _to(run: Run) -> Response:
    return cast(Response, redirect(url_for("runs.show", **run_steps.address(run)), 303))
