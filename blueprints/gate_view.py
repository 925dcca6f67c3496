"""The one card of a run page where a person acts: which of its states is shown, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import current_app

from blueprints import effective
from blueprints.run_steps import failed, minutes_left
from config import Config
from models import MfaAttempt, Phase, PhaseStatus, Run
from policy import lifecycle, mfa, sts_answers
from policy.lifecycle import CancelReason, RunStatus
from policy.mfa import PhaseKind
from policy.permissions import Permission
from policy.sts_answers import Answer
from services import clock, holds, queue, run_pages, runs
from services.access import Authority
from services.errors import CodeRejected
from services.variables import Resolved

#: Which template under templates/runs/gate/ shows a status.
_CARDS = {
    RunStatus.PENDING: "queued",
    RunStatus.AWAITING_PLAN_AUTHENTICATION: "token",
    RunStatus.PLAN_QUEUED: "queued",
    RunStatus.PLANNING: "running",
    RunStatus.AWAITING_CONFIRMATION: "confirm",
    RunStatus.AWAITING_APPLY_AUTHENTICATION: "token",
    RunStatus.APPLY_QUEUED: "queued",
    RunStatus.APPLYING: "running",
}

#: A worker takes what is queued at once; after this long something keeps it from doing so.
_PATIENCE = timedelta(seconds=10)

#: Minutes of the session that are few.
SESSION_WARNING = 10

_ORDINALS = ("Next", "Second", "Third", "Fourth", "Fifth")


@dataclass(frozen=True)
class Session:
    """The temporary credentials of the phase that runs, in minutes."""

    left: int
    total: int

    @property
    def words(self) -> str:
        """What stands beside the meter."""
        if self.left <= 0:
            return "The session is over"
        return f"{self.left:,} min left of {self.total:,}"

    @property
    def short(self) -> str:
        """A warning in the last ten minutes."""
        if self.left > SESSION_WARNING:
            return ""
        return (
            "The MFA session ends soon. Terraform is asked to stop one minute before; what it has finished by then is "
            "saved, and a new run goes on from there."
        )


@dataclass(frozen=True)
class GateView:
    """``attempts`` are those at the gate of ``kind``, the phase that the run is at.

    ``values`` are those of the person who looks; ``unreadable`` when the present keys do not open one of them.
    """

    run: Run
    authority: Authority
    kind: PhaseKind
    attempts: Sequence[MfaAttempt]
    values: Resolved | None
    blocking: Run | None
    ahead: int
    rejected: CodeRejected | None = None
    unreadable: bool = False
    delay: str = ""

    @property
    def card(self) -> str:
        return _CARDS.get(self.run.status, "ended")

    @property
    def phase(self) -> Phase:
        return self.run.phase(self.kind)

    @property
    def may_write(self) -> bool:
        return self.authority.may(Permission.WRITE)

    @property
    def may_discard(self) -> bool:
        return self.may_write and lifecycle.can_discard(self.run.status)

    @property
    def may_cancel(self) -> bool:
        asked = self.run.cancel_requested_at is not None
        return self.may_write and lifecycle.can_cancel(self.run.status) and not asked

    @property
    def locked(self) -> str:
        """Who keeps anything from starting, by hand or with their terminal; "" for nobody."""
        environment = self.run.environment
        if (lock := holds.lock(environment)) is not None:
            return f"{environment.name} is locked by {lock.name}: {lock.what}"
        if environment.state_lock_id is None:
            return ""
        return f"{environment.name} is held by {holds.terminal(environment).sentence}"

    @property
    def may_force(self) -> bool:
        admin = self.authority.may(Permission.FORCE)
        asked = self.run.cancel_requested_at
        return admin and lifecycle.can_force(self.run.status, asked, clock.now(), _config().force_after)

    @property
    def force_later(self) -> str:
        """What can be done about a terraform that does not stop, when not now or not by this person."""
        seconds = int(_config().force_after.total_seconds())
        after = f" after {seconds // 60} min" if seconds >= 60 else f" after {seconds} s" if seconds else ""
        return f"an admin can force it to end{after}"

    @property
    def cancel_words(self) -> str:
        by, reason = self.run.cancel_requested_by, self.run.cancel_reason
        if reason is CancelReason.TIME_LIMIT:
            return f"The {self.kind} reached its time limit"
        if reason is CancelReason.SESSION_OVER:
            return "The MFA session was about to end"
        return f"Cancel requested by {by.name}" if by else "Cancel requested"

    @property
    def stops_at(self) -> datetime | None:
        """When a running phase is asked to stop at the latest: its limit, or the end of its session."""
        started, config = self.phase.started_at, _config()
        if self.card != "running" or started is None:
            return None
        limit = started + (config.plan_limit if self.kind is PhaseKind.PLAN else config.apply_limit)
        ends = self.phase.session_expires_at
        return min(limit, ends - mfa.SESSION_MARGIN) if ends else limit

    @property
    def may_confirm(self) -> bool:
        return self.may_write and lifecycle.can_confirm(self.run.status) and not self.locked

    @property
    def missing(self) -> list[str]:
        return self.values.missing_for_mfa if self.values else []

    @property
    def may_authenticate(self) -> bool:
        """Whether the token form is shown: exactly when a code would be sent to AWS."""
        return (
            self.may_write
            and lifecycle.can_authenticate(self.run.status)
            and not self.locked
            and self.blocking is None
            and not self.missing
            and not self.unreadable
        )

    @property
    def refused(self) -> MfaAttempt | None:
        """The last attempt, when it was not accepted and the run still waits."""
        return failed(self.attempts) if self.card == "token" else None

    @property
    def answer(self) -> Answer | None:
        """The row of the table that the refused attempt got."""
        return sts_answers.ALL.get(self.refused.reason, sts_answers.UNKNOWN) if self.refused else None

    @property
    def more(self) -> str:
        """What the refusal just now adds to the row: "Next code in 14 s.", "Not set: …"."""
        if self.rejected is None or self.answer is None or self.rejected.reason != self.answer.reason:
            return self._next_code()
        return str(self.rejected).removeprefix(self.answer.sentence).strip()

    def _next_code(self) -> str:
        """A page that is loaded later says how long is left of the wait, not how long it was."""
        if self.refused is None or self.refused.reason != sts_answers.ALREADY_USED.reason:
            return ""
        left = self.refused.at + timedelta(seconds=mfa.next_code_in(self.refused.at)) - clock.now()
        seconds = int(left.total_seconds())
        return f"Next code in {seconds} s." if seconds > 0 else "Your device shows a new code by now."

    @property
    def out_of_sync(self) -> str:
        """The sentence on resynchronising, when that many codes were refused in a row."""
        row = 0
        for attempt in reversed(self.attempts):
            if attempt.reason != sts_answers.CODE_REFUSED.reason:
                break
            row += 1
        return sts_answers.RESYNC if self.refused and row >= sts_answers.RESYNC_AFTER else ""

    @property
    def failures(self) -> list[MfaAttempt]:
        return [attempt for attempt in self.attempts if attempt.reason != "accepted"]

    @property
    def place_in_queue(self) -> str:
        """As in: Second in the queue, after #41."""
        place = _ORDINALS[self.ahead] if self.ahead < len(_ORDINALS) else f"Number {self.ahead + 1}"
        return f"{place} in the queue" + (f", after #{self.blocking.number}." if self.blocking else ".")

    @property
    def session(self) -> Session | None:
        """Set while the phase runs, or is about to, with temporary credentials."""
        if self.phase.session_expires_at is None or self.card not in ("running", "queued"):
            return None
        total = (self.phase.session_seconds or mfa.SESSION_DEFAULT) // 60
        return Session(min(minutes_left(self.phase.session_expires_at, clock.now()), total), total)

    @property
    def key(self) -> tuple[object, ...]:
        """Changes exactly when the card must be replaced.

        Times are not in it, nor what other people tried: a card with a half-typed code stays as it is. Their
        refusals still turn the lock in the header red.
        """
        mine = [attempt.id for attempt in self.attempts if attempt.user_id == self.authority.user_id]
        environment = self.run.environment
        return (
            self.run.status,
            self.run.level,
            self.phase.gate_note,
            mine[-1:],
            self.missing,
            self.unreadable,
            self.values.device if self.values else None,
            self.ahead,
            self.blocking.id if self.blocking else None,
            self.locked,
            self.run.cancel_requested_at,
            self.run.force_requested_at,
            self.may_force,
            self.delay,
            self.may_write,
            environment.session_seconds if self.card == "token" else None,
        )


def build(
    authority: Authority,
    run: Run,
    attempts: dict[PhaseKind, list[MfaAttempt]],
    rejected: CodeRejected | None = None,
) -> GateView:
    """Load what the card of the run's status needs, and nothing more."""
    kind = run.status.awaited_phase or _phase_at(run)
    waits = run.status is RunStatus.PENDING or run.status.awaited_phase is not None
    values, asks = None, False
    if run.status.awaited_phase is not None and authority.may(Permission.WRITE):
        asks = True
        values = effective.values(authority.user, run.environment.organization, run.environment)
    return GateView(
        run=run,
        authority=authority,
        kind=kind,
        attempts=attempts[kind],
        values=values,
        blocking=runs.blocking(run) if waits else None,
        ahead=run_pages.ahead(run) if run.status is RunStatus.PENDING else 0,
        rejected=rejected,
        unreadable=asks and values is None,
        delay=_delay(run.phase(kind)),
    )


def _delay(phase: Phase) -> str:
    """Why a phase that has been queued for a while is not taken."""
    if phase.status is not PhaseStatus.QUEUED or phase.queued_at is None or clock.now() - phase.queued_at < _PATIENCE:
        return ""
    return queue.delay()


def _config() -> Config:
    config: Config = current_app.config["LOCKSTEP"]
    return config


def _phase_at(run: Run) -> PhaseKind:
    """The phase that the run is at, or ended in."""
    at_apply = run.status in (RunStatus.AWAITING_CONFIRMATION, RunStatus.APPLY_QUEUED, RunStatus.APPLYING)
    return PhaseKind.APPLY if at_apply or run.apply.queued_at is not None else PhaseKind.PLAN
