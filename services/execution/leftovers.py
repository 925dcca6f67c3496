"""Working directories that a killed worker left behind: removed once everything in them is stored.

A phase removes its own directory at its end. One that is still there half a minute later has lost its worker between
the end of the phase and the removal, or belongs to a run that somebody gave up on. Only the attributes of a plan are
read after the end of its phase; a mark says so.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime
from pathlib import Path

from flask import current_app
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from extensions import db
from models import Phase, PhaseStatus, Run
from policy import run_errors
from policy.lifecycle import LEASE, RunStatus
from policy.mfa import PhaseKind
from services import clock, states, unkept
from services.execution import inside, keeping, steps, terraform
from services.execution.child import ChildNotStarted
from services.execution.steady import apart
from services.execution.summary import SHOW_SECONDS
from services.execution.workdir import GONE, STEPS, Workdir
from services.unkept import Left

log = logging.getLogger(__name__)

_NAME = re.compile(rf"phase-(\d+)-(\d+)({re.escape(GONE)})?")
_told: set[Path] = set()


def sweep() -> None:
    """Remove what is left of phases that have ended; commits. What holds an unsaved state stays.

    One directory that cannot be looked at or removed keeps no other from it.
    """
    for path in _directories():
        with apart(f"{path} was left behind and cannot be removed"):
            _sweep(path)


def _sweep(path: Path) -> None:
    if path.name.endswith(GONE):
        inside.remove(path)  # whoever gave it this name had stored what is in it
        return
    phase = _ended(path)
    if phase is None:
        return
    if unsaved(path, phase):
        _hold(path, phase)
        if path not in _told:
            log.error("%s holds a state that is stored nowhere else", path)
            _told.add(path)
        return
    if _applied(path):
        unkept.settle(phase.run_id, keeping.left_md5(steps.of_ended(phase, path)))
    log.warning("%s was left behind and is removed", path)
    Workdir(path).remove()


def _hold(path: Path, phase: Phase) -> None:
    """Nobody knew of this state: an owner had given up on the machine, say. Nothing starts on an older one; commits."""
    run = db.session.get_one(Run, phase.run_id, populate_existing=True, with_for_update={"of": Run})
    if run.unkept is None and not _environment_moved_on(phase):
        work = steps.of_ended(phase, path)
        said = keeping.sentence(work)
        if unkept.hold(run, Left(said, keeping.left_md5(work), run.error, run.error_code)):
            log.error("run %s: its newest state is in %s alone", run.id, path)
            if run.interruption is not None:
                run.interruption = run.interruption | {"unkept": said}
            elif run.error or run.status is not RunStatus.APPLIED:
                run.error, run.error_code = f"{run.error} {said}".strip()[:1000], run_errors.STATE_UNKEPT
    db.session.commit()


def _directories() -> list[Path]:
    folder: Path = current_app.config["LOCKSTEP"].home / "work"
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def _ended(path: Path) -> Phase | None:
    """The phase that this directory was made for, when nothing runs in it any more; ends the transaction."""
    named = _NAME.fullmatch(path.name)
    phase = db.session.get(Phase, int(named[1]), populate_existing=True) if named else None
    over = phase is not None and _over(phase, path) and not _read(path) and not _alive(path / "control")
    db.session.commit()
    return phase if over else None


def only_copies() -> tuple[list[Path], list[tuple[Path, str]]]:
    """Directories that hold a state which is stored nowhere else, and those of which that cannot be told, with the
    kind of error; changes nothing, and ends the transaction.
    """
    kept: list[Path] = []
    unknown: list[tuple[Path, str]] = []
    for path in _directories():
        if path.name.endswith(GONE):
            continue
        try:
            phase = _ended(path)
            if phase is not None and _applied(path) and not keeping.stored(steps.of_ended(phase, path)):
                kept.append(path)
        except SQLAlchemyError:
            raise
        except Exception as error:
            db.session.rollback()
            unknown.append((path, type(error).__name__))
    db.session.rollback()
    return kept, unknown


def _applied(path: Path) -> bool:
    return Workdir(path).started("apply")


def unsaved(path: Path, phase: Phase) -> bool:
    """Whether a state in it is stored nowhere else. One that continues the environment's is stored now; commits."""
    if not _applied(path):
        return False
    work = steps.of_ended(phase, path)
    if _environment_moved_on(phase):
        return not keeping.stored(work)
    return bool(keeping.unkept(work))


def _environment_moved_on(phase: Phase) -> bool:
    """Whether another run or a terminal has the environment, or had it since: an older state must not come on top."""
    environment, begun = phase.run.environment, _begun(phase)
    mine = (None, phase.run_id)
    if environment.active_run_id not in mine or environment.unkept_run_id not in mine or environment.state_lock_id:
        return True
    latest = states.latest(environment.id)
    if latest is not None and latest.run_id != phase.run_id and latest.created_at > begun:
        return True
    others = Run.environment_id == environment.id, Run.id != phase.run_id, Phase.kind == PhaseKind.APPLY
    later = select(Phase.id).join(Run, Phase.run_id == Run.id).where(*others, Phase.started_at > begun)
    return db.session.scalar(later.limit(1)) is not None


def _begun(phase: Phase) -> datetime:
    return phase.started_at or phase.run.created_at


def _over(phase: Phase, path: Path) -> bool:
    """Whether the phase is done with this directory, and has been for a while."""
    try:
        untouched = time.time() - path.stat().st_mtime > LEASE.total_seconds()
    except FileNotFoundError:
        return False
    if steps.workdir_of(phase.run, phase).root != path:
        return untouched  # of an earlier queueing of the phase
    if phase.status in (PhaseStatus.QUEUED, PhaseStatus.RUNNING):
        return False
    ended = phase.finished_at
    return untouched if ended is None else clock.now() - ended > LEASE


def _read(path: Path) -> bool:
    """Whether the phase's own worker still reads the attributes of its plan there. One that hangs is not waited for."""
    since = Workdir(path).read_since()
    return since is not None and time.time() - since < SHOW_SECONDS + LEASE.total_seconds()


def _alive(control: Path) -> bool:
    for step in STEPS:
        try:
            child = terraform.attach(control, step)
        except ChildNotStarted:
            continue
        if child.running() or child.wrapper.alive():
            return True
        child.kill_session()  # what a provisioner left running, where the wrapper was killed before it could end that
    return False
