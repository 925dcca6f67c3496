"""What RQ calls: one phase of a run, from taking it to its end. The argument is the phase's id and nothing else."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from flask import current_app
from sqlalchemy import update

from extensions import db
from models import PhaseStatus, Run
from policy import plan_summary, run_errors
from policy.lifecycle import CancelReason, Event
from policy.mfa import PhaseKind
from services.execution import ending, lease, prepared, steps, stopping, taking
from services.execution.backend_blocks import own_backend
from services.execution.follow import CredentialsLost, Outcome, run_step
from services.execution.inside import NotAFile
from services.execution.lease import Superseded
from services.execution.release import LetGo
from services.execution.saved_plan import whole_plan
from services.execution.steady import AWAY, steadily, tell
from services.execution.store_wait import StoreWait
from services.execution.summary import summarize
from services.execution.work import CancelCame, PhaseFailed, Vanished, Work
from services.execution.workdir import WorkdirError
from services.storage import blobs, key_check, logs
from services.storage.sqlite import read_only

log = logging.getLogger(__name__)

#: Exit codes of ``terraform plan -detailed-exitcode``.
UNCHANGED, CHANGED = 0, 2

_LIMITS = (CancelReason.TIME_LIMIT, CancelReason.SESSION_OVER)

_LOST = "The worker was lost, and the temporary credentials with it, before this part of the run began."


def run_phase(phase_id: int) -> None:
    """Take the queued phase and run it to its end.

    RQ may call this twice for one phase (a job enqueued again after a lost answer): the compare-and-set of taking it
    lets exactly one of them through.
    """
    _execute(phase_id, taking.take)


def adopt_phase(phase_id: int) -> None:
    """Take over a phase whose worker was lost, and bring it to its end.

    A terraform that still runs is followed again, one that has ended is wound up from its files. No step is started
    a second time.
    """
    _execute(phase_id, taking.adopt)


def _execute(phase_id: int, take: Callable[[int], Work | None]) -> None:
    app = current_app._get_current_object()
    with app.app_context():
        read_only.set(False)
        db.engine.dispose(close=False)  # connections that the fork inherited belong to the parent
        work: Work | None = None
        try:
            key_check.settle()
            work = take(phase_id)
            if work is not None:
                try:
                    _run(work)
                finally:
                    work.dismiss()
        except _Canceled:
            pass
        except key_check.WrongKeys as error:
            # Nothing began: it is left to a worker that has the keys.
            log.critical("phase %s is not taken: %s", phase_id, error)
        except LetGo:
            log.info("phase %s is left to the next worker; terraform goes on", phase_id)
            work = None
        except Vanished as vanished:
            db.session.rollback()
            assert work is not None  # noqa: S101 (raised by a step of this work)
            ending.interrupt(work, str(vanished))
        except Superseded:
            log.warning("phase %s is no longer this worker's", phase_id)
            work = None
        except CancelCame:
            db.session.rollback()
            steadily(lambda: ending.never_began(phase_id, ""))
        except CredentialsLost:
            db.session.rollback()
            steadily(lambda: ending.never_began(phase_id, _LOST))
        except PhaseFailed as failed:
            db.session.rollback()
            ending.fail(phase_id, failed, work)
        except AWAY as error:
            # Nothing ended: a phase that was not taken is still queued, one that was is taken over from its files.
            tell(error)
            work = None
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


def _run(work: Work) -> None:
    if not work.adopted:
        steadily(lambda: _introduce(work))
    if not work.begun:
        _initialise(work)
    if work.kind is PhaseKind.PLAN:
        _plan(work)
    else:
        _apply(work)


def _initialise(work: Work) -> None:
    """All that comes before the phase's own command. Once that has begun, it alone ends the phase: a cancel is for it
    to obey, and what it makes of the configuration's files is its own.
    """
    if "init" in work.steps:
        _require(work, run_step(work, steps.init_arguments()))
    try:
        work.workdir.check_backend(work.state_kept_here)
    except WorkdirError as error:
        raise PhaseFailed("backend", f"{error} Nothing was planned or applied.") from None


def _introduce(work: Work) -> None:
    where = f" in {work.workdir.directory}" if work.workdir.directory else ""
    said = [f"Configuration v{work.configuration} unpacked; Terraform {work.version}{where}"]
    if work.workdir.initialised:
        said.append("Providers and modules as the plan’s init left them on this machine")
    if not work.walls.bwrap:
        bare = "No sandbox: what this run starts can read what the worker can."
        logs.say(work.phase_id, f"{bare} {work.walls.why}", tone="error")
    if not work.state_kept_here:
        said.append("This configuration names a backend of its own: Lockstep neither keeps nor changes its state.")
        kind = own_backend(work.workdir.cwd, tofu=work.tofu)
        db.session.execute(update(Run).where(Run.id == work.run_id).values(own_backend=kind))
    if work.unhidden:
        names = ", ".join(work.unhidden)
        least = "Each string and number of a sensitive value needs 4 characters or more."
        said.append(f"Sensitive, but too short to be hidden in this log: {names}. {least}")
    logs.say(work.phase_id, *said)
    db.session.commit()


def _plan(work: Work) -> None:
    if not work.begun:
        # Before anything that the plan starts could touch it: providers, and programs of the configuration.
        what = "The plan has not begun: its lock file waits to be stored."
        _waits(work, what).through(lambda: _keep_lock(work), cancel=True)
        with lease.held(work.phase_id):
            prepared.keep(work)
    outcome = run_step(work, steps.plan_arguments(work))
    _require(work, outcome, allowed=(UNCHANGED, CHANGED))
    counts = plan_summary.counts_from_log(outcome.tail)
    values: dict[str, Any] = {"terraform_version": work.version, "counts": asdict(counts) if counts else None}
    if outcome.exit_code == UNCHANGED:
        ending.finish(work, Event.FINISH_UNCHANGED, outcome, "No changes: there is nothing to apply", values)
        return
    what = "The plan is done and waits on the worker’s machine to be stored; nothing was applied."
    try:
        values |= _waits(work, what).through(lambda: _keep_plan(work), cancel=True)
        said = f"Plan finished in {outcome.seconds:.0f} s and saved, SHA-256 {values['plan_digest']}"
        ending.finish(work, Event.FINISH_PLAN, outcome, said, values)
    except CancelCame:
        _canceled(work, outcome)
    summarize(work, counted=counts is not None)


def _waits(work: Work, what: str) -> StoreWait:
    return StoreWait(work.phase_id, work.worker, what)


def _keep_lock(work: Work) -> None:
    """Store the dependency lock file as ``init`` left it; commits. The apply's providers are checked against it."""
    try:
        lock = work.workdir.lock_file_bytes()
    except NotAFile:
        said = "The dependency lock file (.terraform.lock.hcl) is no ordinary file."
        raise PhaseFailed("workdir", f"{said} Nothing was planned.") from None
    if lock is not None:
        work.run.lock_blob_id = _put(work, "lock", lock)
    db.session.commit()


def _keep_plan(work: Work) -> dict[str, Any]:
    """Store the saved plan; commits. Answers the run's columns that name it."""
    try:
        plan = work.workdir.read(work.workdir.plan_path)
    except NotAFile:
        said = "The saved plan is no ordinary file: something in the run replaced it."
        raise PhaseFailed("workdir", f"{said} Nothing was applied.") from None
    if plan is None or not whole_plan(plan):
        said = "Terraform could not save the whole plan; is the disk of the worker’s machine full?"
        raise PhaseFailed("plan_unsaved", f"{said} Nothing was applied. Queue a new plan.")
    values = {
        "plan_digest": hashlib.sha256(plan).hexdigest(),
        "plan_blob_id": _put(work, "plan", plan),
    }
    db.session.commit()
    return values


def _put(work: Work, kind: str, content: bytes) -> str:
    """Store a blob, however long a bucket takes; the caller commits. Answers its id."""
    with lease.held(work.phase_id):
        return blobs.put(kind, content).id


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
    if outcome.interrupted or steadily(lambda: stopping.asked(work.run_id)):
        _canceled(work, outcome)
    if outcome.exit_code not in allowed:
        # Once more: what control characters kept apart in the log stands together in the sentence.
        said = work.redactor.text(run_errors.plain(outcome.tail))
        code, sentence, then = run_errors.explain(said, work.kind.value, outcome.exit_code)
        raise PhaseFailed(code, sentence, outcome.exit_code, then)


class _Canceled(Exception):
    """The phase ended because a person canceled it; everything is written down already."""


def _canceled(work: Work, outcome: Outcome) -> NoReturn:
    run = work.run
    forced = ""
    if run.force_requested_at:
        applied = work.kind is PhaseKind.APPLY
        forced = f", by force{': the state may lack what was in flight' if applied else '; nothing was changed'}"
    if run.cancel_reason in _LIMITS:
        code, sentence, then = run_errors.LIMITS[run.cancel_reason.value]
        short = sentence.format(kind=work.kind, limit=stopping.minutes(stopping.limit_of(work.kind)))
        said = error = f"{short} {run_errors.KEPT[work.kind]} {then}"
    else:
        by = run.cancel_requested_by.name if run.cancel_requested_by else "Lockstep"
        kept = "what was finished is in the state" if work.kind is PhaseKind.APPLY else "nothing was changed"
        short, code, error = f"Canceled by {by}{forced}", "", ""
        said = short if forced else f"{short}; {kept}"
    ended_by = run.cancel_requested_by_id
    lost = steadily(lambda: ending.missing(work, error, code))
    if lost:
        said = f"{short.removesuffix('.')}. {lost.sentence}"
        error, code = said[:1000], run_errors.STATE_UNKEPT
    values = {"ended_by_id": ended_by, "error": error, "error_code": code}
    db.session.rollback()
    ending.finish(work, Event.STOPPED, outcome, said, values, PhaseStatus.CANCELED, lost)
    raise _Canceled


def _where(error: BaseException) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        place, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
    return f"{type(error).__name__} at {place}"
