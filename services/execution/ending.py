"""How a phase ends: finished, failed, back to waiting for a code, and its working directory removed.

Each ending is one transaction that first makes sure that the phase is still this worker's.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from sqlalchemy import update

from extensions import db
from models import Phase, PhaseStatus, Run
from policy import run_errors
from policy.lifecycle import Event
from policy.mfa import PhaseKind
from services import audit, clock, runs, states, unkept
from services.compare_and_set import won
from services.errors import Conflict
from services.execution import host, interruption, keeping, prepared
from services.execution.follow import Outcome
from services.execution.keeping import keep_identity
from services.execution.lease import Superseded
from services.execution.steady import steadily
from services.execution.work import CancelCame, PhaseFailed, Work
from services.mfa import handoff
from services.storage import logs
from services.unkept import Left

log = logging.getLogger(__name__)

#: A phase that ends before AWS said whose credentials it had waits this many seconds, with everything else done.
IDENTITY_SECONDS = 5

#: The error code of a run whose terraform is gone.
_VANISHED = "vanished"


def missing(work: Work, error: str, code: str) -> Left | None:
    """What the working directory holds that cannot be stored, tried once more. ``error`` and ``code`` are what the run
    ended with.
    """
    sentence = keeping.unkept(work)
    return Left(sentence, keeping.left_md5(work), error[:1000], code) if sentence else None


def finish(
    work: Work,
    event: Event,
    outcome: Outcome,
    said: str,
    values: dict[str, Any],
    status: PhaseStatus = PhaseStatus.FINISHED,
    lost: Left | None = None,
) -> None:
    """The run moves on by ``event``, the phase is ended, the log says so; then the next run may start.

    ``values`` are further columns of the run, and ``lost`` a state that could not be stored.
    Raises :class:`Superseded` when another worker has the phase, and
    :class:`work.CancelCame` for a plan: left standing, the cancel would stop the apply that somebody agrees to later.
    """

    def _bookkeeping() -> None:
        run = db.session.get_one(Run, work.run_id, populate_existing=True, with_for_update={"of": Run})
        if event is Event.FINISH_PLAN and run.cancel_requested_at is not None:
            db.session.rollback()
            raise CancelCame
        ended = {"status": status, "finished_at": clock.now(), "exit_code": outcome.exit_code}
        if not _end(work.phase_id, work.worker, ended):
            raise Superseded
        logs.say(work.phase_id, said)
        runs.transition(run, event, **values)
        if lost is not None:
            unkept.hold(run, lost)
        details = {"phase": work.kind.value, "plan": run.plan_digest, **_state(run)}
        audit.record(f"run.{run.status.value}", None, run=run, **details)
        db.session.commit()

    steadily(_bookkeeping)
    steadily(lambda: runs.start_pending(work.environment_id))


def fail(phase_id: int, failed: PhaseFailed, work: Work | None) -> None:
    """End the run with an error that the page shows, unless the phase is no longer this worker's."""
    said = " ".join(filter(None, (str(failed), failed.then)))
    lost = missing(work, said, failed.code) if work else None
    sentence = f"{failed} {lost.sentence}" if lost else said
    environment_id = steadily(lambda: _fail(phase_id, failed, sentence, lost))
    if environment_id is not None:
        steadily(lambda: runs.start_pending(environment_id))


def _fail(phase_id: int, failed: PhaseFailed, sentence: str, lost: Left | None) -> int | None:
    code = run_errors.STATE_UNKEPT if lost else failed.code
    ended = {"status": PhaseStatus.FAILED, "finished_at": clock.now(), "exit_code": failed.exit_code}
    if not _end(phase_id, host.worker(), ended):
        db.session.rollback()
        return None
    phase = db.session.get_one(Phase, phase_id, populate_existing=True)
    run = phase.run
    db.session.refresh(run)
    logs.say(phase_id, sentence, tone="error")
    try:
        runs.transition(run, Event.FAIL, error=sentence[:1000], error_code=code)
        if lost is not None:
            unkept.hold(run, lost)
    except Conflict:
        db.session.rollback()
        return None
    audit.record("run.errored", None, run=run, phase=phase.kind.value, reason=failed.code, **_state(run))
    environment_id = run.environment_id
    db.session.commit()
    return environment_id


def _end(phase_id: int, worker: str, values: dict[str, Any]) -> bool:
    mine = (Phase.id == phase_id, Phase.status == PhaseStatus.RUNNING, Phase.worker == worker)
    return won(update(Phase).where(*mine).values(**values))


def close_gate(phase: Phase, event: Event, why: str) -> None:
    """Back to waiting for a code; nothing was run. Commits."""
    run = phase.run
    try:
        runs.transition(run, event)
    except Conflict:
        db.session.rollback()
        return
    note = f"{why} Nothing was started; enter a new code."
    values: dict[str, Any] = {"status": PhaseStatus.WAITING, "gate_note": note}
    session = ("session_expires_at", "session_seconds", "mfa_serial", "caller_arn")
    values |= dict.fromkeys(("queued_at", "started_at", "authenticated_at", "authenticated_by_id", *session))
    db.session.execute(update(Phase).where(Phase.id == phase.id).values(**values))
    logs.say(phase.id, note, tone="bad")
    audit.record("run.gate_closed", None, run=run, phase=phase.kind.value, why=why)
    environment_id = run.environment_id
    db.session.commit()
    runs.start_pending(environment_id)


def never_began(phase_id: int, why: str) -> None:
    """The command of the phase was not started, and ``why`` it will not be: it waits for a code again. Commits.

    It ends where somebody canceled it meanwhile: left standing, the cancel would stop what the next code starts.
    Nothing is done when another worker has the phase by now: with another code it may have been started.
    """
    phase = db.session.get_one(Phase, phase_id, populate_existing=True)
    run = db.session.get_one(Run, phase.run_id, populate_existing=True, with_for_update={"of": Run})
    canceled = run.cancel_requested_at is not None
    status, finished = (PhaseStatus.CANCELED, clock.now()) if canceled else (PhaseStatus.WAITING, None)
    ended = {"status": status, "finished_at": finished, "started_at": None}
    if not _end(phase.id, host.worker(), ended):
        db.session.rollback()
        return
    if not canceled:
        close_gate(phase, Event.NEVER_BEGAN, why)
        return
    by = run.cancel_requested_by.name if run.cancel_requested_by else "Lockstep"
    logs.say(phase.id, f"{why} Canceled by {by}; nothing was changed".strip())
    runs.transition(run, Event.STOPPED, ended_by_id=run.cancel_requested_by_id)
    audit.record(f"run.{run.status.value}", None, run=run, phase=phase.kind.value, plan=run.plan_digest)
    environment_id = run.environment_id
    db.session.commit()
    runs.start_pending(environment_id)


def bar(phase: Phase) -> None:
    """Who queued the phase may not apply there any more: the run ends before anything of it begins. Commits."""
    run, who = phase.run, phase.actor.name if phase.actor else "Somebody"
    why = f"{who} may not apply here any more, so the {phase.kind} that they had queued was not started."
    try:
        runs.transition(run, Event.CANCEL, error=f"{why} Queue a new plan.", error_code="access_ended")
    except Conflict:
        db.session.rollback()
        return
    db.session.execute(update(Phase).where(Phase.id == phase.id).values(status=PhaseStatus.CANCELED))
    logs.say(phase.id, why, tone="bad")
    audit.record("run.cancel", None, run=run, reason=why)
    environment_id, phase_id = run.environment_id, phase.id
    db.session.commit()
    handoff.drop(phase_id)
    runs.start_pending(environment_id)


def interrupt(work: Work, step: str) -> None:
    """Terraform vanished in ``step``: keep what is there, and tell what is known and what is not."""
    lost = steadily(lambda: missing(work, "", _VANISHED))
    facts = steadily(lambda: interruption.gather(work, step, lost.sentence if lost else ""))
    _interrupt(work.phase_id, facts, lost)


def lose(phase_id: int, last_sign: datetime | None) -> None:
    """Terraform was started, and its working directory is gone: it is not started again, and that is told.

    ``last_sign`` is the former worker's.
    """
    phase = db.session.get_one(Phase, phase_id, populate_existing=True)
    _interrupt(phase_id, interruption.without_directory(phase.run, phase, last_sign))


def _interrupt(phase_id: int, facts: dict[str, Any], lost: Left | None = None) -> None:
    def _bookkeeping() -> int:
        if not _end(phase_id, host.worker(), {"status": PhaseStatus.FAILED, "finished_at": clock.now()}):
            raise Superseded
        phase = db.session.get_one(Phase, phase_id, populate_existing=True)
        run, sentence = phase.run, interruption.sentence(phase.kind, facts)
        db.session.refresh(run)
        logs.say(phase_id, sentence, tone="error")
        runs.transition(run, Event.VANISH, error=sentence[:1000], error_code=_VANISHED, interruption=facts)
        if lost is not None:
            unkept.hold(run, lost)
        audit.record("run.interrupted", None, run=run, phase=phase.kind.value, step=facts["step"], **_state(run))
        environment_id = run.environment_id
        db.session.commit()
        return environment_id

    environment_id = steadily(_bookkeeping)
    steadily(lambda: runs.start_pending(environment_id))


def clear(work: Work) -> None:
    """Remove the working directory, unless a state must stay in it, another worker has the phase now, or it has not
    ended: what could not be written down now is found there by the next one.
    """
    phase = steadily(lambda: work.phase)
    if phase.worker != work.worker or phase.status is PhaseStatus.RUNNING:
        db.session.rollback()
        return
    if said := keeping.unkept(work):
        log.error("run %s: %s", work.run_id, said)
        return
    if work.kind is PhaseKind.APPLY:
        steadily(lambda: unkept.settle(work.run_id, keeping.left_md5(work)))
    over = steadily(lambda: work.run.status).final
    db.session.rollback()  # removing can take a while
    try:
        work.workdir.remove()
    except OSError as error:  # tried again by whoever looks after what is left behind
        log.warning("run %s: its working directory is not removed: %s", work.run_id, type(error).__name__)
    if over:
        prepared.drop(work.run_id)
    try:
        keep_identity(work, IDENTITY_SECONDS)
    except Exception as error:
        log.warning("run %s: AWS's name for its credentials is not kept: %s", work.run_id, type(error).__name__)
    work.credentials = None


def _state(run: Run) -> dict[str, Any]:
    version = states.latest(run.environment_id)
    return {"state_serial": version.serial, "state_md5": version.md5} if version and version.run_id == run.id else {}
