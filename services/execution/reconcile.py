"""What workers look after beside their phases: lapsed leases, phases that Redis lost, environments that became free.

On each machine one worker at a time does this, when it starts and every 15 s. All of it is safe to do twice: jobs have
ids, and taking a phase or an environment is a compare-and-set.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from flask import current_app
from redis.exceptions import RedisError
from sqlalchemy import select, update

from extensions import db
from models import Environment, Phase, PhaseStatus, Run
from policy.lifecycle import LEASE, RunStatus
from services import clock, holds, housekeeping, queue, runs
from services.execution import host, leftovers, prepared, steps
from services.execution.steady import AWAY, apart
from services.storage import key_check
from services.storage.sqlite import read_only

log = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY = 15

#: How long an idle worker packs logs at a time: a phase that is queued meanwhile waits for it.
TIDY_SECONDS = 0.3

#: One that is killed while it looks keeps the others of its machine waiting for this many seconds.
_ALONE_SECONDS = 30


def look_around(*, busy: bool = False) -> None:
    """Say that this worker is there, ``busy`` with a phase or not; enqueue what should be in the queue and is not.

    A database or a Redis that is away is left for the next look, and so is what fails: no fault here ends a worker.
    """
    with current_app._get_current_object().app_context():
        read_only.set(False)
        try:
            key_check.settle()
            queue.sign(host.worker(), busy=busy)
            with _alone() as alone:
                if alone:
                    for part in (_queued, _lapsed, _pending, leftovers.sweep, prepared.sweep):
                        with apart(f"{part.__module__}.{part.__name__} failed"):
                            part()
                    if not busy:
                        with apart("the logs are not packed"):
                            housekeeping.tidy(TIDY_SECONDS)
        except key_check.WrongKeys as error:
            log.critical("the runs are not looked after: %s", error)
        except (*AWAY, RedisError) as error:
            log.warning("could not look after the runs: %s", type(error).__name__)
        except Exception as error:
            log.error("could not look after the runs: %s", type(error).__name__)
        finally:
            db.session.remove()


def take_up() -> None:
    """Enqueue, for this machine, the phases whose process here is gone: before this worker takes from the queue of all.

    Else, where every worker is kept busy, nobody would follow what a killed one left for as long as the next phase
    takes.
    """
    with current_app._get_current_object().app_context():
        read_only.set(False)
        try:
            key_check.settle()
            _lapsed()
        except (*AWAY, RedisError, key_check.WrongKeys) as error:
            log.warning("could not look for phases without a worker: %s", type(error).__name__)
        except Exception as error:
            log.error("could not look for phases without a worker: %s", type(error).__name__)
        finally:
            db.session.remove()


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether no other worker of this machine is looking around right now."""
    client, key, mine = queue.connection(), f"lockstep:looking:{host.identity()}", secrets.token_hex(8)
    if not client.set(key, mine, nx=True, ex=_ALONE_SECONDS):
        yield False
        return
    try:
        yield True
    finally:
        if client.get(key) == mine.encode():
            client.delete(key)


def _queued() -> None:
    """Queued phases whose job Redis lost, or a worker that took it and was killed; one that is there is not doubled."""
    phases = list(db.session.scalars(select(Phase).where(Phase.status == PhaseStatus.QUEUED)))
    db.session.commit()
    there = queue.waiting()
    for phase in phases:
        db.session.refresh(phase)
        if phase.status is PhaseStatus.QUEUED:
            queue.enqueue_again(phase, there)
    db.session.commit()


def _lapsed() -> None:
    """Phases whose worker on this machine was lost; the working directory is here and nowhere else."""
    here, long_ago = host.identity(), clock.now() - LEASE
    found = []
    for phase in db.session.scalars(select(Phase).where(Phase.status == PhaseStatus.RUNNING)).all():
        if phase.heartbeat_at is not None and phase.heartbeat_at >= long_ago:
            if steps.abandoned(phase) and _at_once(phase):
                found.append(phase)
        elif _is_here(phase, here):
            found.append(phase)
        elif phase.heartbeat_at is None:
            _start_clock(phase)
    db.session.commit()
    there = queue.waiting(here)
    for phase in found:
        db.session.refresh(phase)
        log.warning("phase %s lost its worker %s", phase.id, phase.worker)
        queue.enqueue_adoption(phase, here, there)
    db.session.commit()


def _at_once(phase: Phase) -> bool:
    """Whether it may be taken over before its lease lapses: once in so many seconds, should each who does be killed."""
    return bool(queue.connection().set(f"lockstep:at-once:{phase.id}", 1, nx=True, ex=int(LEASE.total_seconds())))


def _start_clock(phase: Phase) -> None:
    """A worker of another machine let go, and the next one there has not come yet: from now on it counts as silent."""
    log.warning("phase %s was let go by %s and waits for its machine", phase.id, phase.worker)
    mine = (Phase.id == phase.id, Phase.status == PhaseStatus.RUNNING, Phase.heartbeat_at.is_(None))
    db.session.execute(update(Phase).where(*mine).values(heartbeat_at=clock.now() - LEASE))


def _is_here(phase: Phase, here: str) -> bool:
    return host.of(phase.worker) == here or steps.workdir_of(phase.run, phase).root.exists()


def _pending() -> None:
    """Pending runs of environments that are free: whoever freed one was lost before it started the next."""
    free = (
        select(Environment.id)
        .join(Run, Run.environment_id == Environment.id)
        .where(
            Environment.active_run_id.is_(None),
            holds.unlocked(),
            Environment.state_lock_id.is_(None),
            Run.status == RunStatus.PENDING,
        )
    )
    ids = list(db.session.scalars(free.distinct()))
    db.session.commit()
    for environment_id in ids:
        runs.start_pending(environment_id)
