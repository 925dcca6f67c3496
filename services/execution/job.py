"""What RQ calls: one phase of a run, from taking it to its end. The argument is the phase's id and nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any, NoReturn

from flask import current_app
from redis.exceptions import RedisError
from sqlalchemy import select, update

from extensions import db
from models import Phase, PhaseStatus, Run
from policy import mfa, plan_summary, run_errors
from policy.lifecycle import LEASE, Event
from policy.mfa import PhaseKind
from services import clock, runs
from services.compare_and_set import won
from services.errors import Conflict
from services.execution import ending, steps, terraform
from services.execution.backend_blocks import own_backend
from services.execution.follow import CredentialsLost, Outcome, Superseded, cancel_requested, run_step
from services.execution.steady import steadily
from services.execution.steps import PhaseFailed, Work
from services.execution.workdir import WorkdirError
from services.mfa import handoff
from services.mfa.credentials import TemporaryCredentials
from services.storage import blobs
from services.storage.sqlite import read_only

log = logging.getLogger(__name__)

#: Exit codes of ``terraform plan -detailed-exitcode``.
UNCHANGED, CHANGED = 0, 2

#: ``terraform show -json`` starts the providers, which takes seconds; it may not take minutes.
SHOW_SECONDS = 300

_LOST = "The worker was lost, and the temporary credentials with it, before this part of the run began."


def run_phase(phase_id: int) -> None:
    """Take the queued phase and run it to its end.

    RQ may call this twice for one phase (a job enqueued again after a lost answer): the compare-and-set of taking it
    lets exactly one of them through.
    """
    _execute(phase_id, _take)


def adopt_phase(phase_id: int) -> None:
    """Take over a phase whose worker was lost, and bring it to its end.

    A terraform that still runs is followed again, one that has ended is wound up from its files. No step is started
    a second time.
    """
    _execute(phase_id, _adopt)


def _execute(phase_id: int, take: Callable[[int], Work | None]) -> None:
    app = current_app._get_current_object()
    with app.app_context():
        read_only.set(False)
        db.engine.dispose(close=False)  # connections that the fork inherited belong to the parent
        work: Work | None = None
        try:
            work = take(phase_id)
            if work is not None:
                _run(work)
        except _Canceled:
            pass
        except Superseded:
            log.warning("phase %s was taken over by another worker", phase_id)
        except CredentialsLost:
            db.session.rollback()
            phase = db.session.get_one(Phase, phase_id, populate_existing=True)
            ending.close_gate(phase, Event.NEVER_BEGAN, _LOST)
        except PhaseFailed as failed:
            db.session.rollback()
            ending.fail(phase_id, failed, work)
        except Exception as error:
            # The type alone: the text of an exception may quote a value.
            db.session.rollback()
            log.error("phase %s failed inside Lockstep: %s", phase_id, _where(error))
            sentence = (
                "A fault of Lockstep ended this phase; it is in the worker’s log. Look at the state before going on."
            )
            ending.fail(phase_id, PhaseFailed("internal", sentence), work)
        finally:
            if work is not None:
                ending.clear(work)
            db.session.remove()


def _take(phase_id: int) -> Work | None:
    """Take the phase by compare-and-set; None when it is no longer queued or its gate has closed."""
    phase = _locked(phase_id)
    if phase is None or phase.status is not PhaseStatus.QUEUED:
        db.session.rollback()
        return None
    run = phase.run
    credentials: TemporaryCredentials | None = None
    if phase.authenticated_at is not None:
        credentials = _credentials(phase)
        if credentials is None:
            return None
    elif run.level.demands(phase.kind):
        ending.close_gate(phase, Event.GATE_CLOSED, "The MFA level was raised before the phase began.")
        return None
    try:
        runs.transition(run, Event.TAKE)
    except Conflict:
        db.session.rollback()
        return None
    values = {"status": PhaseStatus.RUNNING, "started_at": clock.now(), "spool_offset": 0, **ending.lease()}
    db.session.execute(update(Phase).where(Phase.id == phase_id).values(**values))
    db.session.commit()
    return steps.prepare(run, phase, credentials)


def _locked(phase_id: int) -> Phase | None:
    """The phase with its run locked, the run first as everywhere.

    So of two workers the second sees that the first took it, before it reaches for the credentials.
    """
    run_id = db.session.scalar(select(Phase.run_id).where(Phase.id == phase_id))
    if run_id is None:
        return None
    db.session.execute(select(Run.id).where(Run.id == run_id).with_for_update())
    return db.session.get(Phase, phase_id, populate_existing=True)


def _adopt(phase_id: int) -> Work | None:
    """Take the lapsed lease by compare-and-set; None when another worker has it, or the phase has ended."""
    lapsed = Phase.heartbeat_at < clock.now() - LEASE
    statement = update(Phase).where(Phase.id == phase_id, Phase.status == PhaseStatus.RUNNING, lapsed)
    taken = won(statement.values(**ending.lease()))
    db.session.commit()
    if not taken:
        return None
    phase = db.session.get_one(Phase, phase_id, populate_existing=True)
    run = phase.run
    work = steps.resume(run, phase)
    if work is not None:
        work.say("The worker was lost; another one goes on from here.")
        return work
    if phase.authenticated_at is not None:
        raise CredentialsLost
    return steps.prepare(run, phase, None)


def _credentials(phase: Phase) -> TemporaryCredentials | None:
    """The sealed credentials; when they vanished or run short the run goes back to waiting, and None."""
    try:
        credentials = handoff.take(phase.id)
    except RedisError:
        why = "The temporary credentials could not be fetched: Redis does not answer."
        ending.close_gate(phase, Event.GATE_CLOSED, why)
        return None
    if credentials is not None and mfa.usable(credentials.expires_at, clock.now()):
        return credentials
    minutes = int(mfa.LEAST_REMAINING / timedelta(minutes=1))
    why = (
        "The temporary credentials are gone: they ended, or Redis lost them."
        if credentials is None
        else f"The temporary credentials had less than {minutes} minutes left when the {phase.kind} could start."
    )
    ending.close_gate(phase, Event.GATE_CLOSED, why)
    return None


def _run(work: Work) -> None:
    if not work.adopted:
        _introduce(work)
    _require(work, run_step(work, steps.init_arguments()))
    try:
        work.workdir.check_backend(work.state_kept_here)
    except WorkdirError as error:
        raise PhaseFailed("backend", f"{error} Nothing was planned or applied.") from None
    if work.kind is PhaseKind.PLAN:
        _plan(work)
    else:
        _apply(work)


def _introduce(work: Work) -> None:
    run = work.run
    where = f" in {run.terraform_directory}" if run.terraform_directory else ""
    work.say(f"Configuration v{run.configuration.number} unpacked; Terraform {work.version}{where}")
    if not work.state_kept_here:
        work.say("This configuration names a backend of its own: Lockstep neither keeps nor changes its state.")
        db.session.execute(update(Run).where(Run.id == work.run_id).values(own_backend=own_backend(work.workdir.cwd)))
        db.session.commit()


def _plan(work: Work) -> None:
    outcome = run_step(work, steps.plan_arguments(work))
    _require(work, outcome, allowed=(UNCHANGED, CHANGED))
    counts = plan_summary.counts_from_log(outcome.tail)
    values: dict[str, Any] = {"terraform_version": work.version, "counts": asdict(counts) if counts else None}
    if outcome.exit_code == UNCHANGED:
        ending.finish(work, Event.FINISH_UNCHANGED, outcome, "No changes: there is nothing to apply", values)
        return
    values |= steadily(lambda: _keep_plan(work))
    said = f"Plan finished in {outcome.seconds:.0f} s and saved, SHA-256 {values['plan_digest']}"
    try:
        ending.finish(work, Event.FINISH_PLAN, outcome, said, values)
    except ending.CancelCame:
        _canceled(work, outcome)
    _summarize(work, counted=counts is not None)


def _keep_plan(work: Work) -> dict[str, Any]:
    """Store the saved plan and the dependency lock file; commits. Answers the run's columns that name them."""
    plan = work.workdir.plan_path.read_bytes()
    lock = work.workdir.lock_file_bytes()
    values = {
        "plan_digest": hashlib.sha256(plan).hexdigest(),
        "plan_blob_id": blobs.put("plan", plan).id,
        "lock_blob_id": blobs.put("lock", lock).id if lock is not None else None,
    }
    db.session.commit()
    return values


def _apply(work: Work) -> None:
    outcome = run_step(work, steps.apply_arguments(work))
    _require(work, outcome)
    counts = plan_summary.counts_from_log(outcome.tail)
    values = {"applied_counts": asdict(counts) if counts else None}
    ending.finish(work, Event.FINISH_APPLY, outcome, f"Apply finished in {outcome.seconds:.0f} s", values)


def _require(work: Work, outcome: Outcome, allowed: tuple[int, ...] = (0,)) -> None:
    """Go on only after a good end without a cancel. A finished apply stays applied, whenever the cancel came."""
    applied = work.kind is PhaseKind.APPLY and work.workdir.control.joinpath("apply.exit").exists()
    if outcome.exit_code in allowed and applied:
        return
    if outcome.interrupted or steadily(lambda: cancel_requested(work.run_id)):
        _canceled(work, outcome)
    if outcome.exit_code not in allowed:
        code, sentence = run_errors.explain(outcome.tail, work.kind.value, outcome.exit_code)
        raise PhaseFailed(code, sentence, outcome.exit_code)


class _Canceled(Exception):
    """The phase ended because a person canceled it; everything is written down already."""


def _canceled(work: Work, outcome: Outcome) -> NoReturn:
    run = work.run
    by = run.cancel_requested_by.name if run.cancel_requested_by else "Lockstep"
    values = {"ended_by_id": run.cancel_requested_by_id}
    db.session.rollback()
    said = f"Canceled by {by}; what was finished is in the state"
    ending.finish(work, Event.STOPPED, outcome, said, values, PhaseStatus.CANCELED)
    raise _Canceled


def _summarize(work: Work, *, counted: bool) -> None:
    """Attributes of the plan, masked by terraform's own masks. It follows by itself; nothing waits for it.

    Whatever goes wrong here ends without a trace but a line in the worker's log: the plan is finished.
    """
    values: dict[str, Any] = {"summary": {"unavailable": True}}
    try:
        answer = terraform.capture(
            work.terraform,
            ["show", "-json", str(work.workdir.plan_path)],
            cwd=work.workdir.cwd,
            env=work.show_environment,
            timeout=SHOW_SECONDS,
        )
        summary = plan_summary.summarize(json.loads(answer))
        values = {"summary": summary.to_json()}
        if not counted:
            values["counts"] = asdict(summary.counts)
    except Exception as error:
        log.warning("run %s: no attributes of its plan: %s", work.run_id, type(error).__name__)

    def keep() -> None:
        db.session.execute(update(Run).where(Run.id == work.run_id).values(**values))
        db.session.commit()

    steadily(keep)


def _where(error: BaseException) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        place, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    return f"{type(error).__name__} at {place}"
