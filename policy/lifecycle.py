"""THE transition table of a run. Services change a status only through :func:`advance`, templates ask the same rules.

The gate is part of the table: :func:`advance` is given the level in force (the stricter of the run's own and the
environment's) and whether the phase at hand was authenticated, and no event leads to a queued or running phase past a
gate that is not satisfied.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from policy.mfa import MfaLevel, PhaseKind


class RunStatus(StrEnum):
    """The status of a run; :attr:`words` is what a person reads."""

    PENDING = "pending"
    AWAITING_PLAN_AUTHENTICATION = "awaiting_plan_authentication"
    PLAN_QUEUED = "plan_queued"
    PLANNING = "planning"
    PLANNED_AND_FINISHED = "planned_and_finished"
    AWAITING_CONFIRMATION = "awaiting_confirmation"
    AWAITING_APPLY_AUTHENTICATION = "awaiting_apply_authentication"
    APPLY_QUEUED = "apply_queued"
    APPLYING = "applying"
    APPLIED = "applied"
    DISCARDED = "discarded"
    CANCELED = "canceled"
    ERRORED = "errored"
    INTERRUPTED = "interrupted"

    @property
    def words(self) -> str:
        """The status in words, as in the state diagram of docs/ARCHITECTURE.md."""
        return _WORDS[self]

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self in FINAL

    @property
    def holds_environment(self) -> bool:
        """Whether the run is the environment's one active run."""
        return self in HOLDING

    @property
    def awaited_phase(self) -> PhaseKind | None:
        """The phase that a code is awaited for, None when none is."""
        return _AWAITED.get(self)


class Event(StrEnum):
    """What can happen to a run."""

    START = "start"  # the environment is free: begin with the plan
    AUTHENTICATE = "authenticate"  # AWS accepted a code for the phase at hand
    TAKE = "take"  # a worker takes the queued phase
    GATE_CLOSED = "gate_closed"  # credentials gone or too short, or the level was raised: authenticate (again)
    NEVER_BEGAN = "never_began"  # the worker and the credentials were lost before terraform's plan or apply was started
    FINISH_UNCHANGED = "finish_unchanged"  # the plan found nothing to do
    FINISH_PLAN = "finish_plan"  # the plan found changes and is saved
    FINISH_APPLY = "finish_apply"
    CONFIRM = "confirm"
    RAISE = "raise"  # the environment's level was raised while the run awaits confirmation
    FAIL = "fail"
    DISCARD = "discard"
    CANCEL = "cancel"  # before anything runs
    STOPPED = "stopped"  # terraform ended after the SIGINT of a cancel
    VANISH = "vanish"  # terraform is gone, or its worker for good, and how it ended is not known


class TransitionRefused(Exception):
    """The event is not possible in this status; ``str()`` is a plain sentence."""


S, E = RunStatus, Event

#: (status, event) → status, where the gate has no say.
_PLAIN: dict[tuple[RunStatus, Event], RunStatus] = {
    (S.PLAN_QUEUED, E.GATE_CLOSED): S.AWAITING_PLAN_AUTHENTICATION,
    (S.APPLY_QUEUED, E.GATE_CLOSED): S.AWAITING_APPLY_AUTHENTICATION,
    (S.PLANNING, E.NEVER_BEGAN): S.AWAITING_PLAN_AUTHENTICATION,
    (S.APPLYING, E.NEVER_BEGAN): S.AWAITING_APPLY_AUTHENTICATION,
    (S.PLANNING, E.FINISH_UNCHANGED): S.PLANNED_AND_FINISHED,
    (S.APPLYING, E.FINISH_APPLY): S.APPLIED,
    (S.PLANNING, E.STOPPED): S.CANCELED,
    (S.APPLYING, E.STOPPED): S.CANCELED,
    (S.PLANNING, E.VANISH): S.INTERRUPTED,
    (S.APPLYING, E.VANISH): S.INTERRUPTED,
    (S.AWAITING_CONFIRMATION, E.RAISE): S.AWAITING_APPLY_AUTHENTICATION,
    **{(s, E.CANCEL): S.CANCELED for s in (S.PENDING, S.AWAITING_PLAN_AUTHENTICATION, S.PLAN_QUEUED,
                                          S.AWAITING_CONFIRMATION, S.AWAITING_APPLY_AUTHENTICATION, S.APPLY_QUEUED)},
    **{(s, E.DISCARD): S.DISCARDED for s in (S.PENDING, S.AWAITING_PLAN_AUTHENTICATION, S.AWAITING_CONFIRMATION,
                                            S.AWAITING_APPLY_AUTHENTICATION)},
    **{(s, E.FAIL): S.ERRORED for s in (S.PLAN_QUEUED, S.PLANNING, S.APPLY_QUEUED, S.APPLYING)},
}  # fmt: skip

#: (status, event) → (phase whose gate decides, status when it is open, status when it is closed).
#: A closed status of None means that the event is refused.
_GATED: dict[tuple[RunStatus, Event], tuple[PhaseKind, RunStatus, RunStatus | None]] = {
    (S.PENDING, E.START): (PhaseKind.PLAN, S.PLAN_QUEUED, S.AWAITING_PLAN_AUTHENTICATION),
    # A level that was lowered meanwhile does not free a waiting run: `level` is never below the run's own.
    (S.AWAITING_PLAN_AUTHENTICATION, E.AUTHENTICATE): (PhaseKind.PLAN, S.PLAN_QUEUED, None),
    (S.PLAN_QUEUED, E.TAKE): (PhaseKind.PLAN, S.PLANNING, None),
    (S.PLANNING, E.FINISH_PLAN): (PhaseKind.APPLY, S.AWAITING_CONFIRMATION, S.AWAITING_APPLY_AUTHENTICATION),
    (S.AWAITING_CONFIRMATION, E.CONFIRM): (PhaseKind.APPLY, S.APPLY_QUEUED, S.AWAITING_APPLY_AUTHENTICATION),
    (S.AWAITING_APPLY_AUTHENTICATION, E.AUTHENTICATE): (PhaseKind.APPLY, S.APPLY_QUEUED, None),
    (S.APPLY_QUEUED, E.TAKE): (PhaseKind.APPLY, S.APPLYING, None),
}

_AWAITED = {S.AWAITING_PLAN_AUTHENTICATION: PhaseKind.PLAN, S.AWAITING_APPLY_AUTHENTICATION: PhaseKind.APPLY}

FINAL = frozenset({S.PLANNED_AND_FINISHED, S.APPLIED, S.DISCARDED, S.CANCELED, S.ERRORED, S.INTERRUPTED})
#: A run that awaits *plan* authentication does not hold the environment; nobody may ever type the code.
HOLDING = frozenset(RunStatus) - FINAL - {S.PENDING, S.AWAITING_PLAN_AUTHENTICATION}
RUNNING = frozenset({S.PLANNING, S.APPLYING})

#: A worker that gave no sign for this long is lost: another one takes its phase over, and the page says so.
LEASE = timedelta(seconds=30)

#: So long a worker must have been silent before an owner can give up on it: others of its machine come first.
GIVE_UP_AFTER = timedelta(minutes=2)

_WORDS = {
    S.PENDING: "Pending",
    S.AWAITING_PLAN_AUTHENTICATION: "Awaiting authentication",
    S.PLAN_QUEUED: "Plan queued",
    S.PLANNING: "Planning",
    S.PLANNED_AND_FINISHED: "No changes",
    S.AWAITING_CONFIRMATION: "Awaiting confirmation",
    S.AWAITING_APPLY_AUTHENTICATION: "Awaiting authentication",
    S.APPLY_QUEUED: "Apply queued",
    S.APPLYING: "Applying",
    S.APPLIED: "Applied",
    S.DISCARDED: "Discarded",
    S.CANCELED: "Canceled",
    S.ERRORED: "Errored",
    S.INTERRUPTED: "Interrupted",
}


class CancelReason(StrEnum):
    """Why a running terraform was asked to stop."""

    PERSON = "person"
    TIME_LIMIT = "time_limit"
    SESSION_OVER = "session_over"


@dataclass(frozen=True)
class GateFacts:
    """What the gate of a phase knows: the level in force and which phases AWS accepted a code for."""

    level: MfaLevel
    authenticated: frozenset[PhaseKind] = frozenset()

    def open_for(self, phase: PhaseKind) -> bool:
        """Whether ``phase`` may start: no code is needed, or one was accepted for exactly this phase."""
        return phase in self.authenticated or not self.level.demands(phase)


def advance(status: RunStatus, event: Event, gate: GateFacts) -> RunStatus:
    """The status after ``event``.

    ``gate.level`` is the stricter of the run's own level and the environment's present one. Raises
    :class:`TransitionRefused` when the table has no such transition or the gate is closed.
    """
    if (status, event) in _PLAIN:
        return _PLAIN[status, event]
    if (status, event) in _GATED:
        phase, if_open, if_closed = _GATED[status, event]
        accepted = phase in gate.authenticated if event is Event.AUTHENTICATE else gate.open_for(phase)
        result = if_open if accepted else if_closed
        if result is not None:
            return result
        raise TransitionRefused(f"The {phase} needs a code from an AWS MFA device first.")
    raise TransitionRefused(f"This run is {status.words.lower()}; that is not possible now.")


def can(status: RunStatus, event: Event) -> bool:
    """Whether the table has a transition for ``event`` at all; guards and buttons both ask this."""
    return (status, event) in _PLAIN or (status, event) in _GATED


def can_authenticate(status: RunStatus) -> bool:
    """Whether the token form is shown and its POST accepted."""
    return can(status, Event.AUTHENTICATE)


def can_confirm(status: RunStatus) -> bool:
    """Whether Confirm & Apply is shown and its POST accepted."""
    return can(status, Event.CONFIRM)


def can_discard(status: RunStatus) -> bool:
    """Whether Discard is shown and its POST accepted."""
    return can(status, Event.DISCARD)


def can_cancel(status: RunStatus) -> bool:
    """Whether Cancel is shown and its POST accepted: before a phase starts at once, while one runs by a SIGINT."""
    return can(status, Event.CANCEL) or status in RUNNING


def can_force(status: RunStatus, asked_at: datetime | None, now: datetime, cool_off: timedelta) -> bool:
    """Whether a running terraform may be ended the hard way: a cancel of it has waited for the cool-off.

    ``asked_at`` is when the cancel was asked for, None when it was not.
    """
    return status in RUNNING and asked_at is not None and now - asked_at >= cool_off


def unattended(status: RunStatus, seen_at: datetime | None, now: datetime) -> bool:
    """Whether nobody follows a running phase; ``seen_at`` is its worker's last sign, None for one that let it go."""
    return status in RUNNING and (seen_at is None or now - seen_at > LEASE)


def can_give_up(status: RunStatus, seen_at: datetime | None, now: datetime) -> bool:
    """Whether an owner may declare the worker of a running phase gone for good.

    Not of one that let it go for a restart: the next worker of its machine takes over. A worker of another machine
    starts the clock for it (services/execution/reconcile.py).
    """
    return status in RUNNING and seen_at is not None and now - seen_at > GIVE_UP_AFTER
