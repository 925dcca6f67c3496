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
from flask_login import decode_cookie, login_required
from markupsafe import Markup

from blueprints import log_view, polling, run_steps, run_view
from blueprints.incoming import whole
from blueprints.loading import here, is_fragment, load_environment, load_run, person
from blueprints.presentation import asset
from models import Environment, Run
from policy.mfa import PhaseKind
from policy.permissions import Permission
from services import configurations, run_pages, runs
from services import force as hard_ends
from services.access import require
from services.errors import CodeRejected, Conflict, Invalid, LockstepError, ServiceAway
from services.mfa import gate

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


#: Before the person is loaded: most polls need no more than this.
blueprint.before_request(polling.begin)


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
    _, found = load_environment(organization, environment)
    return _list(found, request.args.get("before", type=whole))


@blueprint.post("/changes/configurations")
def upload(organization: str, environment: str) -> Any:
    membership, found = load_environment(organization, environment)
    require(membership, Permission.WRITE, "You cannot upload a configuration here.", found)
    file = request.files.get("archive")
    try:
        if file is None or not file.filename:
            raise Invalid("archive", "Choose a .tar.gz or .zip archive of your Terraform files.")
        if (already := _queued_already(found, configurations.digest(cast(Any, file.stream)))) is not None:
            return already
        message = request.form.get("message", "")
        version = configurations.upload(membership, found, cast(Any, file.stream), file.filename, message)
        # No lock was held while the archive was looked at: a second click may have been quicker.
        if (already := _queued_already(found, version.digest)) is not None:
            return already
        return _to(runs.create_run(membership, found, version))
    except Invalid as error:
        return _list(found, None, {error.field: str(error)}), 422


@blueprint.post("/changes/runs")
def queue(organization: str, environment: str) -> Any:
    membership, found = load_environment(organization, environment)
    require(membership, Permission.WRITE, "You cannot queue plans here.", found)
    version = configurations.latest(found)
    if version is None:
        raise Conflict("There is no configuration yet. Upload one first; that queues a plan, too.")
    if (already := _queued_already(found, version.digest)) is not None:
        return already
    return _to(runs.create_run(membership, found, version))


@blueprint.get("/changes/runs/<int:number>")
def show(organization: str, environment: str, number: int) -> Any:
    _, run = load_run(organization, environment, number)
    return _page(run)


@blueprint.get("/changes/runs/<int:number>/status")
def status(organization: str, environment: str, number: int) -> Any:
    """What changed since the page got its parts, and the new lines of its logs; 204 when there is nothing.

    Most polls are answered before they come here (blueprints/polling.py).
    """
    _, run = load_run(organization, environment, number)
    view = run_view.build(here(), run, all_resources=request.args.get("resources") == "all")
    changed = view.changed(request.args)
    if not changed and not view.logs_changed(request.args) and not view.stamp:
        return "", 204
    return _fragment(view, changed)


@blueprint.get("/changes/runs/<int:number>/<any(plan, apply):kind>/log")
def log(organization: str, environment: str, number: int, kind: str) -> Any:
    """Lines of a gap, and what is left of it; 204 when there are none."""
    _, run = load_run(organization, environment, number)
    first, last = (request.args.get(name, 0, type=whole) for name in ("first", "last"))
    count = request.args.get("count", log_view.STEP_LINES, type=whole)
    from_above = request.args.get("from") == "above"
    parts = log_view.fill(run.phase(PhaseKind(kind)), first, last, from_above=from_above, count=count)
    return render_template("runs/_log_parts.html", parts=parts, kind=kind, at=run_steps.address(run)) or ("", 204)


@blueprint.get("/changes/runs/<int:number>/<any(plan, apply):kind>/log.txt")
def raw_log(organization: str, environment: str, number: int, kind: str) -> Response:
    _, run = load_run(organization, environment, number)
    return log_view.download(run.phase(PhaseKind(kind)), f"{environment}-{number}-{kind}.log")


@blueprint.post("/changes/runs/<int:number>/authenticate")
def authenticate(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(run, lambda: gate.authenticate(membership, run, request.form.get("token", "")))


@blueprint.post("/changes/runs/<int:number>/confirm")
def confirm(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(run, lambda: runs.confirm(membership, run))


@blueprint.post("/changes/runs/<int:number>/discard")
def discard(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(run, lambda: runs.discard(membership, run))


@blueprint.post("/changes/runs/<int:number>/cancel")
def cancel(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(run, lambda: runs.cancel(membership, run))


@blueprint.post("/changes/runs/<int:number>/force")
def force(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(run, lambda: hard_ends.force(membership, run))


@blueprint.post("/changes/runs/<int:number>/give-up")
def give_up(organization: str, environment: str, number: int) -> Any:
    membership, run = load_run(organization, environment, number)
    return _act(run, lambda: hard_ends.give_up(membership, run))


def _act(run: Run, action: Callable[[], object]) -> Any:
    """Do it, then show the run as it is: a fragment, a redirect to its page, or its page with what went wrong."""
    try:
        action()
    except CodeRejected as rejected:
        response = _answer(run, rejected.status, rejected=rejected)
        if rejected.status == 429 and rejected.waiting:
            response.headers["Retry-After"] = str(rejected.waiting)
        return response
    except (Conflict, ServiceAway) as error:
        run_pages.reload(run)
        return _answer(run, 409 if isinstance(error, Conflict) else 503, notice=error)
    return _answer(run, 200) if is_fragment() else _to(run)


def _answer(
    run: Run,
    status: int,
    *,
    rejected: CodeRejected | None = None,
    notice: LockstepError | None = None,
) -> Response:
    if not is_fragment():
        return make_response(_page(run, rejected=rejected, notice=notice), status)
    view = run_view.build(here(), run, rejected=rejected)
    # The gate always: its field must be empty again, and what went wrong stands there.
    parts = [name for name in run_view.PARTS if name == "gate" or name in view.changed(request.form)]
    return make_response(_fragment(view, [name for name in parts if name != "session"], notice), status)


def _page(
    run: Run,
    rejected: CodeRejected | None = None,
    notice: LockstepError | None = None,
) -> str:
    view = run_view.build(
        here(),
        run,
        all_resources=request.args.get("resources") == "all",
        line=log_view.asked_line(request.args.get("line", "")),
        rejected=rejected,
    )
    return render_template("runs/show.html", view=view, run=run, gate=view.gate, tab="changes", problem=notice)


def _fragment(view: run_view.RunView, parts: list[str], notice: LockstepError | None = None) -> str:
    begun = view.logs_missing(request.values)
    news = view.logs_news(request.values)
    logs = {**view.ends(begun), **{found.kind: found.news.end for found in news}}
    return render_template(
        "runs/_fragment.html", view=view, run=view.run, parts=parts, begun=begun, news=news, logs=logs, problem=notice
    )


def _list(environment: Environment, before: int | None, errors: dict[str, str] | None = None) -> str:
    found = runs.recent(environment, before, PAGE + 1)
    total, waiting = run_pages.counted(environment)
    return render_template(
        "runs/index.html",
        tab="changes",
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


def _queued_already(environment: Environment, digest: str) -> Response | None:
    """A double click, or one on a page that is out of date, ends at the run of the same configuration that is there."""
    seen = request.form.get("seen", type=whole)
    run = None if seen is None else run_pages.queued_since(environment, person(), seen, digest)
    if run is None:
        return None
    was = f"Run #{run.number} of this configuration was queued in your name since that page was shown"
    flash(f"{was}, so no second one was made.", "info")
    return _to(run)


def _to(run: Run) -> Response:
    return cast(Response, redirect(url_for("runs.show", **run_steps.address(run)), 303))
