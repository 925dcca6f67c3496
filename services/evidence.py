"""What stands about a run, as evidence: who let it through with which device, what was applied, and what came out.

The same run gives the same facts again and again once it has ended, until its logs are removed.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import select

from extensions import db
from models import AuditEvent, MfaAttempt, Phase, Run, StateVersion, User
from services import run_pages
from services.storage import logs

#: The shape of :func:`facts`.
FORMAT = "lockstep evidence 1"


def facts(run: Run) -> dict[str, Any]:
    """Everything, made of what JSON knows. Times are ISO 8601, UTC; digests hex.

    ``log_sha256`` is of the file that "Download log" gives; None for a log that is empty or was removed. Addresses of
    people are not in it: whoever may read the run may have it.
    """
    attempts = run_pages.attempts(run)
    version = run.configuration
    return {
        "format": FORMAT,
        "organization": run.environment.organization.name,
        "environment": run.environment.name,
        "run": run.number,
        "status": run.status.value,
        "message": run.message,
        "mfa_level": run.mfa_level.value,
        "queued": _by(run.created_by, run.created_at),
        "confirmed_by": _name(run.confirmed_by),
        "canceled": _by(run.cancel_requested_by, run.cancel_requested_at),
        "forced": _by(run.force_requested_by, run.force_requested_at),
        "ended_by": _name(run.ended_by),
        "finished_at": _time(run.finished_at),
        "error": run.error or None,
        "configuration": {
            "number": version.number,
            "sha256": version.digest,
            "uploaded": _by(version.uploaded_by, version.uploaded_at),
            "directory": run.terraform_directory,
        },
        "terraform_version": run.terraform_version,
        "plan_sha256": run.plan_digest,
        "changes_planned": run.counts,
        "changes_applied": run.applied_counts,
        "phases": [_phase(phase, attempts[phase.kind]) for phase in run.phases],
        "states": [_state(version) for version in _states(run)],
        "events": [_event(made) for made in _events(run)],
    }


def _phase(phase: Phase, attempts: list[MfaAttempt]) -> dict[str, Any]:
    return {
        "phase": phase.kind.value,
        "status": phase.status.value,
        "variables_of": _name(phase.actor),
        "authenticated_by": _name(phase.authenticated_by),
        "authenticated_at": _time(phase.authenticated_at),
        "device": phase.mfa_serial,
        "session_expires_at": _time(phase.session_expires_at),
        "aws_identity": phase.caller_arn,
        "started_at": _time(phase.started_at),
        "finished_at": _time(phase.finished_at),
        "exit_code": phase.exit_code,
        "log_bytes": phase.log_size,
        "log_sha256": _log_digest(phase),
        "log_removed_at": _time(phase.log_removed_at),
        "attempts": [_attempt(attempt) for attempt in attempts],
    }


def _log_digest(phase: Phase) -> str | None:
    if not phase.log_size or phase.log_removed_at is not None:
        return None
    digest = hashlib.sha256()
    for piece in logs.raw(phase.id, phase.log_size):
        digest.update(piece)
    return digest.hexdigest()


def _attempt(attempt: MfaAttempt) -> dict[str, Any]:
    return {
        "at": _time(attempt.at),
        "by": attempt.user.name,
        "device": attempt.serial,
        "outcome": attempt.outcome.value,
        "reason": attempt.reason or None,
        "aws_code": attempt.aws_code or None,
    }


def _states(run: Run) -> list[StateVersion]:
    query = select(StateVersion).where(StateVersion.run_id == run.id).order_by(StateVersion.number)
    return list(db.session.scalars(query))


def _state(version: StateVersion) -> dict[str, Any]:
    return {
        "version": version.number,
        "serial": version.serial,
        "lineage": version.lineage,
        "md5": version.md5,
        "resources": version.resources,
        "stored_at": _time(version.created_at),
    }


def _events(run: Run) -> list[AuditEvent]:
    query = select(AuditEvent).where(AuditEvent.run_id == run.id, AuditEvent.sequence.is_not(None))
    return list(db.session.scalars(query.order_by(AuditEvent.sequence)))


def _event(made: AuditEvent) -> dict[str, Any]:
    return {
        "sequence": made.sequence,
        "at": _time(made.at),
        "who": made.actor_name,
        "action": made.action,
        "details": made.details,
        "digest": made.digest,
    }


def _by(person: User | None, at: datetime | None) -> dict[str, Any] | None:
    return None if at is None else {"by": _name(person), "at": _time(at)}


def _name(person: User | None) -> str | None:
    return person.name if person else None


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z") if at else None
