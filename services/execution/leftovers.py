"""Working directories that a killed worker left behind: removed once everything in them is stored.

A phase removes its own directory at its end. One that is still there half a minute later has lost its worker between
the end of the phase and the removal, or belongs to a run that somebody gave up on.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from flask import current_app

from extensions import db
from models import Phase, PhaseStatus
from policy.lifecycle import LEASE
from services import clock, states
from services.execution import keeping, steps, terraform
from services.execution.child import ChildNotStarted
from services.execution.workdir import STEPS, Workdir

log = logging.getLogger(__name__)

_NAME = re.compile(r"phase-(\d+)-(\d+)")
_told: set[Path] = set()


def sweep() -> None:
    """Remove what is left of phases that have ended; commits. What holds an unsaved state stays."""
    for path, phase in found():
        if unsaved(path, phase):
            if path not in _told:
                log.error("%s holds a state that is stored nowhere else", path)
                _told.add(path)
        else:
            log.warning("%s was left behind and is removed", path)
            Workdir(path).remove()


def found() -> Iterator[tuple[Path, Phase]]:
    """Directories in which nothing runs any more, with the phase that they were made for."""
    folder: Path = current_app.config["LOCKSTEP"].home / "work"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        named = _NAME.fullmatch(path.name)
        phase = db.session.get(Phase, int(named.group(1)), populate_existing=True) if named else None
        if phase is not None and _over(phase, path) and not _alive(path / "control"):
            yield path, phase
        db.session.commit()


def only_copies() -> list[Path]:
    """Directories that hold a state which is stored nowhere else; changes nothing."""
    return [path for path, phase in found() if _applied(path) and not keeping.stored(steps.of_ended(phase, path))]


def _applied(path: Path) -> bool:
    return (path / "control" / "apply.pid").exists()


def unsaved(path: Path, phase: Phase) -> bool:
    """Whether a state in it is stored nowhere else. One that continues the environment's is stored now; commits."""
    if not _applied(path):
        return False
    work = steps.of_ended(phase, path)
    if _environment_moved_on(phase):
        return not keeping.stored(work)
    return bool(keeping.unkept(work))


def _environment_moved_on(phase: Phase) -> bool:
    """Whether another run has the environment, or has stored a state since: an older one must not come on top."""
    environment = phase.run.environment
    latest = states.latest(environment.id)
    newer = latest is not None and latest.run_id != phase.run_id and latest.created_at > _begun(phase)
    return newer or environment.active_run_id not in (None, phase.run_id)


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
