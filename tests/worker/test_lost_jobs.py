"""A worker that is killed after it took a job and before the database says so: the phase is back in a queue soon."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta

import pytest
from rq import Queue
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from sqlalchemy import update

from extensions import db
from models import Phase, PhaseStatus, Run
from policy.lifecycle import LEASE, RunStatus
from services import clock, queue
from services.execution import host, job, reconcile, steps
from services.execution.release import LetGo
from tests.support import lab
from tests.worker.conftest import Bench
from worker import LockstepWorker

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


# -- a process of this machine that is gone ----------------------------------------------------------------------------


def followed_by(bench: Bench, pid: int) -> Phase:
    """A plan of this machine that process ``pid`` follows, with a sign a moment ago."""
    phase, worker = running(bench), f"{host.identity()}:{pid}"
    lease = {"queued_at": clock.now(), "worker": worker, "heartbeat_at": clock.now()}
    db.session.execute(update(Phase).where(Phase.id == phase.id).values(**lease))
    db.session.commit()
    db.session.refresh(phase)
    workdir = steps.workdir_of(phase.run, phase)
    workdir.make()
    workdir.mark_held(worker)
    (workdir.control / "plan.pid").touch()
    path = workdir.control / "holder"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": pid}))
    db.session.commit()
    return phase


def gone() -> int:
    """The number of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def remove_workdirs(bench: Bench) -> None:
    for name in bench.workdirs():
        shutil.rmtree(bench.home / "work" / name)


def test_a_phase_of_a_process_that_is_gone_is_taken_up_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = followed_by(bench, gone())
    phase_id, lost = phase.id, phase.worker
    db.session.commit()
    reconcile.take_up()
    reconcile.take_up()
    assert [found.args for found in queue.queue(host=host.identity()).get_jobs()] == [[phase_id]]
    monkeypatch.setattr(job, "_run", lambda work: (_ for _ in ()).throw(LetGo))
    job.adopt_phase(phase_id)
    db.session.rollback()
    db.session.refresh(phase)
    assert phase.worker == host.worker() != lost
    job.adopt_phase(phase_id)  # one job too many: the new holder lives
    assert lab.log_of(phase).count("another one goes on from here") == 1
    remove_workdirs(bench)


def test_who_is_killed_again_and_again_waits_for_the_lease(bench: Bench) -> None:
    followed_by(bench, gone())
    reconcile.take_up()
    take_and_die()
    reconcile.take_up()
    assert lab.queued_jobs() == []
    remove_workdirs(bench)


def test_what_was_about_to_be_started_is_waited_for(bench: Bench) -> None:
    """Its wrapper may begin after its starter was killed: who takes over at once would start it a second time."""
    phase = followed_by(bench, gone())
    (steps.workdir_of(phase.run, phase).control / "plan.pid").unlink()
    db.session.commit()
    reconcile.take_up()
    assert lab.queued_jobs() == []
    remove_workdirs(bench)


@pytest.mark.parametrize(
    "changed", [{"pid": 1}, {"namespace": 7}, {"boot_id": "another"}, {"worker": "another:1"}, {"pid": None}]
)
def test_where_that_cannot_be_told_the_lease_has_to_lapse(bench: Bench, changed: dict[str, object]) -> None:
    phase = followed_by(bench, gone())
    path = steps.workdir_of(phase.run, phase).control / "holder"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    phase_id, worker = phase.id, phase.worker
    db.session.commit()
    reconcile.take_up()
    assert lab.queued_jobs() == []
    job.adopt_phase(phase_id)
    db.session.rollback()
    db.session.refresh(phase)
    assert phase.worker == worker
    remove_workdirs(bench)


def test_the_page_says_that_all_workers_of_that_machine_are_busy(bench: Bench) -> None:
    mine = host.identity()
    assert queue.takeover_delay(mine).startswith("No worker of that machine is running")
    queue.sign("another-machine:1", busy=False)
    queue.sign(f"{mine}:1", busy=True)
    assert queue.takeover_delay(mine).startswith("The only worker of that machine is busy")
    queue.sign(f"{mine}:2", busy=True)
    assert queue.takeover_delay(mine).startswith("All 2 workers of that machine are busy")
    queue.sign(f"{mine}:2", busy=False)
    assert queue.takeover_delay(mine) == ""


def test_a_worker_looks_for_them_after_each_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("rq.Worker.execute_job", lambda *_: order.append("phase"))
    monkeypatch.setattr(reconcile, "take_up", lambda: order.append("take up"))
    bench.run("")
    db.session.commit()
    taken = queue.queue()
    worker = LockstepWorker([taken], connection=queue.connection(), job_class=queue.PhaseJob, prepare_for_work=False)
    (found,) = taken.get_jobs()
    worker.execute_job(found, taken)
    assert order == ["phase", "take up"]


def test_a_signal_that_comes_while_a_worker_looks_around_is_not_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's handler raises where it interrupts, and no fault of what looks after the runs ends a worker."""
    looked: list[str] = []

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        lab.until(lambda: worker._asked, "the signal")
        looked.append("on")

    monkeypatch.setattr(reconcile, "_queued", interrupted)
    worker = LockstepWorker([queue.queue()], connection=queue.connection(), prepare_for_work=False)
    worker.pid = os.getpid()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, worker.request_stop)
    try:
        with pytest.raises(StopRequested):
            worker.run_maintenance_tasks()
        assert looked == ["on"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
