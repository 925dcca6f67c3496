"""How a run stands, for scripts: what its page shows to whoever may read it, as JSON knows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from models import Phase, Run
from policy.lifecycle import RunStatus
from services import holds

_QUEUED = (RunStatus.PLAN_QUEUED, RunStatus.APPLY_QUEUED)
_WAITS = {
    RunStatus.AWAITING_PLAN_AUTHENTICATION: "a code for the plan, from a person",
    RunStatus.AWAITING_CONFIRMATION: "the confirmation of a person",
    RunStatus.AWAITING_APPLY_AUTHENTICATION: "a code for the apply, from a person",
    **dict.fromkeys(_QUEUED, "a worker"),
}


def facts(run: Run) -> dict[str, Any]:
    """Nothing secret, and nothing of devices or addresses. Times are ISO 8601, UTC; digests hex.

    ``level`` is the one in force, ``waits_for`` words for what the run cannot go on without, None for nothing.
    """
    return {
        "organization": run.environment.organization.name,
        "environment": run.environment.name,
        "number": run.number,
        "status": run.status.value,
        "final": run.status.final,
        "waits_for": _waits_for(run),
        "level": run.level.value,
        "message": run.message,
        "configuration": run.configuration.number,
        "queued_by": run.created_by.name,
        "queued_at": _time(run.created_at),
        "finished_at": _time(run.finished_at),
        "plan": _phase(run.plan),
        "apply": _phase(run.apply),
        "plan_sha256": run.plan_digest,
        "changes_planned": run.counts,
        "changes_applied": run.applied_counts,
        "error": run.error or None,
    }


def _waits_for(run: Run) -> str | None:
    if run.status is RunStatus.PENDING:
        holder = holds.holder(run.environment)
        return holder.sentence if holder is not None else "its turn"
    if run.status in _QUEUED and (lock := holds.lock(run.environment)) is not None:
        return lock.sentence
    return _WAITS.get(run.status)


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "status": phase.status.value,
        "started_at": _time(phase.started_at),
        "finished_at": _time(phase.finished_at),
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z") if at else None
