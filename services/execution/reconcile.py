"""What workers look after beside their phases: lapsed leases, phases that Redis lost, environments that became free.

Every worker does this when it starts and every 15 s while it is idle. All of it is safe to do twice: jobs have ids, and
taking a phase or an environment is a compare-and-set.
"""

from __future__ import annotations

import logging
import socket

from flask import current_app
from redis.exceptions import RedisError
from sqlalchemy import select

from extensions import db
from models import Environment, Phase, PhaseStatus, Run
from policy.lifecycle import LEASE, RunStatus
from services import clock, queue, runs
from services.execution.steady import AWAY
from services.storage.sqlite import read_only

log = logging.getLogger(__name__)

#: Seconds between two looks of an idle worker.
EVERY = 15


def look_around() -> None:
    """Enqueue what should be in the queue and is not. A database or a Redis that is away is left for the next look."""
    with current_app._get_current_object().app_context():
        read_only.set(False)
        try:
            _queued()
            _lapsed()
            _pending()
        except (*AWAY, RedisError) as error:
            log.warning("could not look after the runs: %s", type(error).__name__)
        finally:
            db.session.remove()


def _queued() -> None:
    """Queued phases whose job Redis may have lost; a job that is there already is not doubled."""
    phases = list(db.session.scalars(select(Phase).where(Phase.status == PhaseStatus.QUEUED)))
    db.session.commit()
    for phase in phases:
        db.session.refresh(phase)
        queue.enqueue_phase(phase)


def _lapsed() -> None:
    """Phases whose worker on this machine was lost; its working directory is here and nowhere else."""
    here = Phase.worker.startswith(f"{socket.gethostname()}:", autoescape=True)
    query = select(Phase).where(Phase.status == PhaseStatus.RUNNING, Phase.heartbeat_at < clock.now() - LEASE, here)
    for phase in db.session.scalars(query):
        log.warning("phase %s lost its worker %s", phase.id, phase.worker)
        queue.enqueue_adoption(phase)
    db.session.commit()


def _pending() -> None:
    """Pending runs of environments that are free: whoever freed one was lost before it started the next."""
    free = (
        select(Environment.id)
        .join(Run, Run.environment_id == Environment.id)
        .where(Environment.active_run_id.is_(None), Environment.locked_by_id.is_(None), Run.status == RunStatus.PENDING)
    )
    ids = list(db.session.scalars(free.distinct()))
    db.session.commit()
    for environment_id in ids:
        runs.start_pending(environment_id)
