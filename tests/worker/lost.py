"""A worker that is lost, and what an idle one then finds and does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update

from extensions import db
from models import Phase
from policy.lifecycle import LEASE, RunStatus
from services import clock
from services.execution import job, reconcile
from tests.support import lab
from tests.worker.conftest import Bench


@pytest.fixture
def horse(bench: Bench) -> Iterator[Callable[[Phase], int]]:
    """Starts a phase in a forked process, as RQ does; answers its pid."""
    started: list[int] = []

    def start(phase: Phase) -> int:
        phase_id = phase.id
        db.session.commit()
        pid = os.fork()
        if pid == 0:
            try:
                job.run_phase(phase_id)
            finally:
                os._exit(0)
        started.append(pid)
        return pid

    yield start
    for pid in started:
        kill(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def lapse(phase: Phase) -> None:
    """Half a minute passes without a sign of the worker."""
    long_ago = clock.now() - LEASE - timedelta(seconds=1)
    db.session.execute(update(Phase).where(Phase.id == phase.id).values(heartbeat_at=long_ago))
    db.session.commit()


def adopt(bench: Bench, phase: Phase) -> RunStatus:
    """What an idle worker finds when it looks around, and then does."""
    lapse(phase)
    reconcile.look_around()
    assert ("services.execution.job.adopt_phase", [phase.id]) in lab.queued_jobs()
    phase_id, run = phase.id, phase.run
    db.session.commit()
    job.adopt_phase(phase_id)
    db.session.rollback()
    return lab.status(run)
