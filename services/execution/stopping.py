"""Ending a running terraform before it ends by itself: a cancel, the time limits, and an owner's force.

Each is written in the run's row, whoever asked, and passed on once by the worker that follows. Marks in the control
folder tell a worker that takes over what terraform has been told already: a second SIGINT makes it leave at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from flask import current_app
from sqlalchemy import select, update

from config import Config
from extensions import db
from models import Run
from policy import mfa
from policy.lifecycle import RUNNING, CancelReason
from policy.mfa import PhaseKind
from services import audit, clock
from services.compare_and_set import won
from services.execution import terraform
from services.execution.work import Work

#: Seconds from the second SIGINT to the SIGKILL of everything that terraform started.
KILL_AFTER = 10.0

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Asked:
    """What people, or a limit, asked for."""

    reason: CancelReason | None
    force: bool


def asked(run_id: int) -> Asked | None:
    """What was asked of the run; None for nothing. Commits."""
    query = select(Run.cancel_requested_at, Run.cancel_reason, Run.force_requested_at).where(Run.id == run_id)
    at, reason, force = db.session.execute(query).one()
    db.session.commit()
    return None if at is None else Asked(reason, force is not None)


def minutes(limit: timedelta) -> str:
    """A limit as people say it: "90 min", "12 h"."""
    whole = int(limit.total_seconds()) // 60
    return f"{whole // 60} h" if whole % 60 == 0 else f"{whole} min"


def limit_of(kind: PhaseKind) -> timedelta:
    """How long a phase may take, by the settings."""
    config: Config = current_app.config["LOCKSTEP"]
    return config.plan_limit if kind is PhaseKind.PLAN else config.apply_limit


class Stopper:
    """Watches one step of a phase. ``say`` puts a line into the log."""

    def __init__(self, work: Work, child: terraform.Child, say: Say) -> None:
        self._work, self._child, self._say = work, child, say
        self.interrupted = self._mark("interrupted").exists()
        phase = work.phase
        started: datetime = phase.started_at or clock.now()
        self._limit = started + limit_of(work.kind)
        self._session = phase.session_expires_at - mfa.SESSION_MARGIN if phase.session_expires_at else None
        db.session.commit()

    def look(self) -> None:
        """Pass on what was asked since the last look. A database that is away raises as it does."""
        wanted = asked(self._work.run_id)
        if wanted is None and (reason := self._over()) is not None:
            self._stop(reason)
            wanted = asked(self._work.run_id)
        if wanted is None:
            return
        if not self.interrupted:
            self._interrupt()
        elif wanted.force:
            self._force()

    def _over(self) -> CancelReason | None:
        now = clock.now()
        if self._session is not None and now >= self._session:
            return CancelReason.SESSION_OVER
        return CancelReason.TIME_LIMIT if now >= self._limit else None

    def _stop(self, reason: CancelReason) -> None:
        """Write down that a limit is reached, unless somebody canceled at this moment. Commits."""
        mine = (Run.id == self._work.run_id, Run.status.in_(RUNNING), Run.cancel_requested_at.is_(None))
        if won(update(Run).where(*mine).values(cancel_requested_at=clock.now(), cancel_reason=reason)):
            audit.record("run.limit", None, run=self._work.run, phase=self._work.kind.value, reason=reason.value)
        db.session.commit()

    def _interrupt(self) -> None:
        # One SIGINT to terraform's own pid: it starts nothing more and saves the state; docs/adr/0007 tells what a call
        # in flight can leave. A second one, or one to its providers, would lose state; so it leaves a mark for a worker
        # that takes over; which of two that look at the same moment is the one, the mark decides.
        mark = self._mark("interrupted")
        if not _made(mark):
            self.interrupted = True
            return
        try:
            self._child.interrupt()
        except OSError:  # nothing was sent: the next look tries again
            mark.unlink(missing_ok=True)
            raise
        self.interrupted = True
        run = self._work.run
        kind, by, reason = self._work.kind, run.cancel_requested_by, run.cancel_reason
        why = {
            CancelReason.TIME_LIMIT: f"The {kind} took longer than {minutes(limit_of(kind))}",
            CancelReason.SESSION_OVER: "The MFA session ends",
        }.get(reason or CancelReason.PERSON, f"Cancel requested by {by.name if by else 'Lockstep'}")
        db.session.commit()
        self._say(f"{why}: terraform is asked to stop", "own")

    def _force(self) -> None:
        mark = self._mark("forced")
        if _made(mark):
            self._child.interrupt()
            by = self._work.run.force_requested_by
            db.session.commit()
            self._say(f"Forced by {by.name if by else 'an owner'}: terraform is told to leave at once", "error")
            return
        if time.time() - mark.stat().st_mtime >= KILL_AFTER and self._child.running():
            self._child.kill_session()

    def _mark(self, name: str) -> Path:
        return self._child.control / f"{self._child.step}.{name}"


def _made(mark: Path) -> bool:
    """Whether this call made it."""
    try:
        mark.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    return True
