"""The worker process: takes phases from the queue and runs each in a forked child."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from flask import Flask, current_app
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

import services.execution.job  # noqa: F401  (imported before the fork, so that each phase starts at once)
from app import create_app
from extensions import db
from services import queue
from services.execution import host, reconcile, release, warm
from services.execution.steady import AWAY, tell
from services.execution.walls import find_walls
from services.storage import key_check

log = logging.getLogger(__name__)


def main() -> None:
    """Work until SIGINT, which waits for a running phase, or SIGTERM, which leaves its terraform to the next worker."""
    work(load())


def load(app: Flask | None = None) -> Flask:
    """The application, ``app`` or a new one, ready for a phase and with no connection open: it may be forked."""
    os.umask(0o077)
    app = app or create_app(migrations=False, pages=False)
    level = app.config["LOCKSTEP"].log_level
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    config = app.config["LOCKSTEP"]
    walls = find_walls(config.terraform_sandbox)  # tried here; once known, known to every phase that is forked
    if walls.refused:
        log.warning("no run can begin, for want of a sandbox: %s", walls.why)
    elif walls.bwrap is None:
        log.warning("terraform runs without a sandbox: %s", walls.why)
    with app.app_context():
        try:
            key_check.prove()
        except key_check.WrongKeys as error:
            sys.exit(f"Lockstep cannot start: {error}")
        warm.warm_up()
        db.engine.dispose()
    # What is here now stays: a collection in a child would touch it all, and so copy its pages.
    gc.collect()
    gc.freeze()
    return app


def work(app: Flask) -> None:
    """Take phases from the queue until a signal."""
    config = app.config["LOCKSTEP"]
    settle(app)
    with app.app_context():
        reconcile.take_up()
        reconcile.look_around()
        client = queue.connect(config.redis_url, blocking=True)
        worker = LockstepWorker(
            [queue.queue(client, host.identity()), queue.queue(client)],
            connection=client,
            serializer=JSONSerializer,
            job_class=queue.PhaseJob,
            log_job_description=False,
            maintenance_interval=reconcile.EVERY,
            job_monitoring_interval=reconcile.EVERY,
            worker_ttl=reconcile.EVERY + 15,  # RQ waits this long less 15 s for a job before it looks around
        )
        worker.work(logging_level=config.log_level, with_scheduler=False)


def settle(app: Flask) -> None:
    """End the process, with a sentence in its log, where its keys turn out not to be the installation's.

    Its start could not tell when the database was away; one that still is, is asked again later.
    """
    with app.app_context():
        try:
            key_check.settle()
        except key_check.WrongKeys as error:
            log.critical("Lockstep cannot go on: %s", error)
            sys.exit(1)
        except AWAY as error:
            tell(error)
        finally:
            db.session.remove()


class LockstepWorker(Worker):
    """RQ's worker, which also looks after runs that were left behind, and can leave a running terraform alone."""

    _looking = False
    _asked: int | None = None

    def run_maintenance_tasks(self) -> None:
        """Called by RQ every ``maintenance_interval`` while no phase runs here."""
        super().run_maintenance_tasks()
        settle(_app())
        with self._undisturbed():
            reconcile.look_around()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Called by RQ every ``job_monitoring_interval`` while a phase runs here."""
        super().maintain_heartbeats(job, execution)
        with self._undisturbed():
            reconcile.look_around(busy=True)

    def execute_job(self, job: Job, taken_from: Queue) -> None:
        """One phase, in a horse; whoever waits for a worker is told that this one is busy.

        What is no phase is refused, and gone: somebody else has written to Redis.
        """
        try:
            assert isinstance(job, queue.PhaseJob)  # noqa: S101 (as the worker is told)
            job.require_ours()
        except queue.NotOurs as error:
            self.connection.delete(job.key)
            log.error("a job in the queue was refused and removed. %s Find out who can write to Redis.", error)
            return
        self._sign(busy=True)
        super().execute_job(job, taken_from)
        with self._undisturbed():
            reconcile.take_up()
        self._sign(busy=False)
        settle(_app())

    def teardown(self) -> None:
        """At the end."""
        with contextlib.suppress(RedisError):
            queue.absent(host.worker())
        super().teardown()

    def _sign(self, *, busy: bool) -> None:
        with contextlib.suppress(RedisError):
            queue.sign(host.worker(), busy=busy)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """The first signal. A horse that was just forked still has this handler."""
        if os.getpid() != self.pid:
            release.ask()
            return
        if signum == signal.SIGTERM:
            self._let_go()
        if self._looking:
            self._asked = signum
            return
        super().request_stop(signum, frame)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Every further signal. RQ would kill the horse; terraform and its log are left to the next worker instead."""
        self._let_go()

    def setup_work_horse_signals(self) -> None:
        """In the horse, before its job: SIGTERM asks it to let go."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, release.ask)

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Let a first signal wait: RQ raises where it comes, and no error ends what looks after the runs."""
        self._looking = True
        try:
            yield
        finally:
            self._looking = False
            if self._asked is not None:
                signum, self._asked = self._asked, None
                self.request_stop(signum, None)

    def _let_go(self) -> None:
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)


def _app() -> Flask:
    app: Flask = current_app._get_current_object()
    return app


if __name__ == "__main__":
    main()
