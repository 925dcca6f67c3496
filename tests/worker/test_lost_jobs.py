"""A worker that is killed after it took a job and before the database says so: the phase is back in a queue soon."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import update

from extensions import db
from models import Phase, PhaseStatus, Run
from policy.lifecycle import LEASE, RunStatus
from services import clock, queue
from services.execution import host, job, reconcile
from tests.support import lab
from tests.worker.conftest import Bench

RUN, ADOPT = queue.RUN_PHASE, queue.ADOPT_PHASE


def take_and_die() -> None:
    """What is left of a job whose worker and horse were killed at once: its record, in no queue."""
    queues = [queue.queue(host=host.identity()), queue.queue()]
    found = Queue.dequeue_any(queues, None, queue.connection(), queue.PhaseJob, JSONSerializer)
    assert found is not None and queue.connection().exists(found[0].key)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = clock.now() + timedelta(seconds=seconds)
    monkeypatch.setattr(clock, "now", lambda: now)


def test_a_queued_phase_whose_job_was_lost_is_back_within_two_looks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase_id = bench.run("").plan.id
    db.session.commit()
    take_and_die()
    reconcile.look_around()  # right after: a worker may just be about to begin
    assert lab.queued_jobs() == []
    for _ in range(3):  # and as often as it takes
        later(monkeypatch, 2 * reconcile.EVERY)
        reconcile.look_around()
        assert lab.queued_jobs() == [(RUN, [phase_id])]
        take_and_die()


def test_a_phase_that_waits_in_the_queue_is_there_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    phase_id = bench.run("").plan.id
    db.session.commit()
    for _ in range(4):
        reconcile.look_around()
        later(monkeypatch, reconcile.EVERY)
        assert lab.queued_jobs() == [(RUN, [phase_id])]


def running(bench: Bench) -> Phase:
    """A plan of this machine whose worker fell silent."""
    run = bench.run("")
    silent = clock.now() - LEASE - timedelta(seconds=1)
    lease = {"status": PhaseStatus.RUNNING, "worker": f"{host.identity()}:gone", "heartbeat_at": silent}
    db.session.execute(update(Phase).where(Phase.id == run.plan.id).values(**lease))
    db.session.execute(update(Run).where(Run.id == run.id).values(status=RunStatus.PLANNING))
    db.session.commit()
    queue.connection().flushall()
    return run.plan


def test_an_adoption_that_was_lost_is_back_at_the_next_look(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    phase_id = running(bench).id
    db.session.commit()
    for _ in range(3):
        reconcile.look_around()
        assert lab.queued_jobs() == [(ADOPT, [phase_id])]
        reconcile.look_around()
        assert lab.queued_jobs() == [(ADOPT, [phase_id])], "what waits in the queue is not doubled"
        take_and_die()
        later(monkeypatch, reconcile.EVERY)


@pytest.mark.parametrize("again", [job.run_phase, job.adopt_phase])
def test_one_job_too_many_does_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, again: Callable[[int], None]
) -> None:
    phase = running(bench)
    db.session.execute(update(Phase).where(Phase.id == phase.id).values(heartbeat_at=clock.now()))
    db.session.commit()
    monkeypatch.setattr(job, "_run", lambda work: pytest.fail("it ran twice"))
    again(phase.id)
