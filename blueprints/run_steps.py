"""The timeline of a run: its gates, its plan and its apply as steps, each with an icon and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup

from blueprints.presentation import clock_time, took
from models import MfaAttempt, Phase, PhaseStatus, Run
from policy.lifecycle import RunStatus
from policy.mfa import PhaseKind
from services import clock

Note = str | Markup
S = RunStatus

_QUEUED = {PhaseKind.PLAN: S.PLAN_QUEUED, PhaseKind.APPLY: S.APPLY_QUEUED}
_RUNNING = {PhaseKind.PLAN: S.PLANNING, PhaseKind.APPLY: S.APPLYING}
_AWAITED = {PhaseKind.PLAN: S.AWAITING_PLAN_AUTHENTICATION, PhaseKind.APPLY: S.AWAITING_APPLY_AUTHENTICATION}
_ENDED = {
    PhaseStatus.FINISHED: ("done", "circle-check", "Finished", "in"),
    PhaseStatus.FAILED: ("failed", "circle-x", "Errored", "after"),
    PhaseStatus.CANCELED: ("interrupted", "ban", "Canceled", "after"),
}

_INTERRUPTED = ("interrupted", "unplug", "Interrupted", "after")


@dataclass(frozen=True)
class Step:
    """``look`` is the class and ``icon`` the symbol; ``href`` names the part of the page that tells more."""

    look: str
    icon: str
    name: str
    note: Note
    href: str = ""

    @property
    def current(self) -> bool:
        """Whether the run is at this step, or ended there."""
        return self.look in ("waiting", "running", "failed", "interrupted")

    @property
    def spin(self) -> bool:
        return self.look == "running"


def failed(attempts: Sequence[MfaAttempt]) -> MfaAttempt | None:
    """The last attempt, when it was not accepted."""
    return attempts[-1] if attempts and attempts[-1].reason != "accepted" else None


def steps(run: Run, attempts: Mapping[PhaseKind, Sequence[MfaAttempt]]) -> Iterator[Step]:
    """The steps in the order in which they come."""
    gated = run.level.demands(PhaseKind.PLAN) and run.plan.queued_at is None and not run.status.final
    if run.plan.authenticated_at or gated or run.status is S.AWAITING_PLAN_AUTHENTICATION:
        yield _gate(run, run.plan, attempts[PhaseKind.PLAN])
    yield _phase(run, run.plan, "Plan")
    # A gate can close after the confirmation, when the level is raised: then both are steps of this run.
    asked = run.status is S.AWAITING_APPLY_AUTHENTICATION or run.apply.authenticated_at is not None
    confirmed = run.confirmed_by_id is not None
    demanded = run.level.demands(PhaseKind.APPLY)
    if confirmed or not (asked or demanded):
        yield _confirmation(run)
    if asked or (demanded and not confirmed):
        yield _gate(run, run.apply, attempts[PhaseKind.APPLY])
    yield _phase(run, run.apply, "Apply")


def _gate(run: Run, phase: Phase, attempts: Sequence[MfaAttempt]) -> Step:
    name, kind = "Authenticate", phase.kind
    since = run.created_at if kind is PhaseKind.PLAN else run.plan.finished_at
    if phase.authenticated_at and phase.authenticated_by:
        after = f", after {about(phase.authenticated_at - since)}" if since else ""
        by, at = phase.authenticated_by.name, clock_time(phase.authenticated_at)
        return Step("done", "lock-open", name, Markup("By {} at {}{}").format(by, at, after))
    if run.status is _AWAITED[kind]:
        last = failed(attempts)
        if last is not None:
            note = Markup("Authentication failed at {}").format(clock_time(last.at))
            return Step("failed", "lock", name, note, "#authenticate")
        waits = _since(since) if since and kind is PhaseKind.APPLY else f"the {kind}"
        return Step("waiting", "lock", name, Markup("Awaiting a code for {}").format(waits), "#authenticate")
    if run.status.final:
        return Step("pending", "circle-dashed", name, "Not asked")
    first = run.plan.authenticated_at or run.status is S.AWAITING_PLAN_AUTHENTICATION
    return Step("pending", "circle-dashed", name, f"Asked {'again ' if first else ''}before the {kind}")


def _confirmation(run: Run) -> Step:
    name = "Confirm"
    if run.status is S.AWAITING_CONFIRMATION:
        since = run.plan.finished_at
        waits = Markup(" for {}").format(_since(since)) if since else ""
        return Step("waiting", "circle-pause", name, Markup("Awaiting confirmation{}").format(waits), "#confirm")
    if run.confirmed_by is not None:
        return Step("done", "circle-check", name, f"By {run.confirmed_by.name}")
    return Step("pending", "circle-dashed", name, "Not asked" if run.status.final else "Asked after the plan")


def _phase(run: Run, phase: Phase, name: str) -> Step:
    href = f"#{phase.kind}-log" if phase.log_size else ""
    if run.status is _RUNNING[phase.kind]:
        note = Markup("Running for {}").format(_since(phase.started_at)) if phase.started_at else "Starting"
        return Step("running", "loader-circle", name, note, href)
    if run.status is _QUEUED[phase.kind]:
        locked = run.environment.locked
        return Step("waiting", "circle-dashed", name, f"Waiting for {'the unlocking' if locked else 'a worker'}", href)
    lasted = length(phase)
    if phase.status in _ENDED:
        vanished = run.status is S.INTERRUPTED and phase.status is PhaseStatus.FAILED
        look, icon, word, joint = _INTERRUPTED if vanished else _ENDED[phase.status]
        return Step(look, icon, name, f"{word} {joint} {took(lasted)}" if lasted else word, href)
    return Step("pending", "circle-dashed", name, _not_begun(run, phase.kind), href)


def _not_begun(run: Run, kind: PhaseKind) -> str:
    if run.status is S.PLANNED_AND_FINISHED:
        return "Nothing to apply"
    if run.status.final or run.status not in (S.PENDING, *_AWAITED.values(), S.AWAITING_CONFIRMATION):
        return "Not started"
    if run.status is S.PENDING:
        return "Waits for its turn" if kind is PhaseKind.PLAN else "Not started"
    if run.status is S.AWAITING_PLAN_AUTHENTICATION:
        return "Queued when AWS accepts the code" if kind is PhaseKind.PLAN else "Not started"
    confirmed = run.status is S.AWAITING_CONFIRMATION
    return "Starts when confirmed" if confirmed else "Starts when AWS accepts the code"


def address(run: Run) -> dict[str, Any]:
    """The arguments of ``url_for`` for a run."""
    environment = run.environment
    return {"organization": environment.organization.name, "environment": environment.name, "number": run.number}


def length(phase: Phase) -> timedelta | None:
    """How long the phase ran, None when it did not or still does."""
    if phase.started_at is None or phase.finished_at is None:
        return None
    return phase.finished_at - phase.started_at


def _since(at: datetime) -> Markup:
    """How long ago that was; static/app.js counts on, so no poll has to."""
    return Markup('<time datetime="{}" data-time="for">{}</time>').format(
        at.isoformat(timespec="seconds"), about(clock.now() - at)
    )


def about(age: timedelta) -> str:
    """A duration in one unit, so that it rarely changes: "24 s", "9 min", "3 h", "2 days"."""
    seconds = max(int(age.total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h"
    return f"{seconds // 86400} days"


def minutes_left(until: datetime, now: datetime) -> int:
    """Whole minutes until a time, 0 when it is over."""
    return max(int((until - now).total_seconds()) // 60, 0)


def run_time(run: Run) -> timedelta | None:
    """How long the phases of a run ran together, None when none has ended."""
    lengths = [found for found in map(length, run.phases) if found is not None]
    return sum(lengths, timedelta()) if lengths else None
