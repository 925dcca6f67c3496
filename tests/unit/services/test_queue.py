"""Whoever writes to Redis can make a worker run the two functions of Lockstep, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from rq import Queue
from rq.job import Callback, Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer, PickleSerializer

from services import queue
from worker import LockstepWorker


def made(function: str, *args: Any, **more: Any) -> Job:
    """A job as somebody else may put it into the queue."""
    others = Queue(queue.QUEUE, connection=queue.connection(), serializer=more.pop("serializer", JSONSerializer))
    return others.enqueue(function, *args, **more)


def work(caplog: pytest.LogCaptureFixture) -> str:
    """Take everything from the queue as a worker does; what it logged."""
    caplog.set_level(logging.ERROR)
    taken, connection = queue.queue(), queue.connection()
    worker = LockstepWorker(
        [taken], connection=connection, serializer=JSONSerializer, job_class=queue.PhaseJob, prepare_for_work=False
    )
    while (found := Queue.dequeue_any([taken], None, connection, queue.PhaseJob, JSONSerializer)) is not None:
        worker.execute_job(*found)
    return caplog.text


@pytest.mark.parametrize(
    "job",
    [
        lambda path: made("os.mkdir", path),
        lambda path: made("os.mkdir", path, serializer=PickleSerializer),
        lambda path: made("pathlib.Path.mkdir", path),
        lambda path: made(queue.RUN_PHASE, path),
        lambda path: made(queue.RUN_PHASE, True),
        lambda path: made(queue.RUN_PHASE, 1, 2),
        lambda path: made(queue.RUN_PHASE, phase_id=1),
        lambda path: made(queue.RUN_PHASE, 1, on_success=Callback("os.mkdir")),
        lambda path: made(queue.RUN_PHASE, 1, on_failure=Callback("os.mkdir")),
        lambda path: made(queue.RUN_PHASE, 1, on_stopped=Callback("os.mkdir")),
    ],
)
def test_a_worker_refuses_what_is_no_phase(
    app: Flask, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, job: Any
) -> None:
    monkeypatch.setattr(LockstepWorker, "fork_work_horse", lambda *_: pytest.fail("a horse was forked for it"))
    path = tmp_path / "made"
    with app.app_context():
        found = job(str(path))
        said = work(caplog)
        assert "a job in the queue was refused and removed." in said
        assert "os.mkdir" not in said and str(path) not in said
        assert not queue.connection().exists(found.key)
    assert not path.exists()


def test_the_two_functions_are_taken(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str | None] = []
    monkeypatch.setattr("rq.Worker.execute_job", lambda self, job, queue: taken.append(job.func_name))
    with app.app_context():
        for function in queue.FUNCTIONS:
            made(function, 7)
        assert work(caplog) == ""
    assert sorted(map(str, taken)) == sorted(queue.FUNCTIONS)


def test_nothing_else_is_imported_when_lost_jobs_are_tidied_up(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rq.job.import_attribute", lambda name: pytest.fail(f"{name} was imported"))
    with app.app_context():
        job = made(
            "os.mkdir",
            "x",
            on_failure=Callback("os.mkdir"),
            on_success=Callback("os.mkdir"),
            on_stopped=Callback("os.mkdir"),
        )
        job.set_status(JobStatus.STARTED)
        queue.connection().zadd(StartedJobRegistry(queue=queue.queue()).key, {f"{job.id}:1": 1})
        queue.queue().started_job_registry.cleanup()
        found = queue.queue().fetch_job(job.id)
        assert isinstance(found, queue.PhaseJob)
        assert (found.success_callback, found.failure_callback, found.stopped_callback) == (None, None, None)
        with pytest.raises(queue.NotOurs):
            found.perform()
