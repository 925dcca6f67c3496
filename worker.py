"""The worker process: takes phases from the queue and runs each in a forked child."""

from __future__ import annotations

import logging
import os
import sys

from rq import Worker
from rq.serializers import JSONSerializer

import services.execution.job  # noqa: F401  (imported before the fork, so that each phase starts at once)
from app import create_app
from services import queue
from services.execution import reconcile


def main() -> None:
    """Work until SIGTERM or SIGINT; a phase that runs is finished first."""
    os.umask(0o077)
    app = create_app()
    config = app.config["LOCKSTEP"]
    logging.basicConfig(
        level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    with app.app_context():
        reconcile.look_around()
        client = queue.connect(config.redis_url, blocking=True)
        worker = LockstepWorker(
            [queue.queue(client)],
            connection=client,
            serializer=JSONSerializer,
            log_job_description=False,
            maintenance_interval=reconcile.EVERY,
            worker_ttl=reconcile.EVERY + 15,  # RQ waits this long less 15 s for a job before it looks around
        )
        worker.work(logging_level=config.log_level, with_scheduler=False)


class LockstepWorker(Worker):
    """RQ's worker, which also looks after runs that were left behind."""

    def run_maintenance_tasks(self) -> None:
        """Called by RQ every ``maintenance_interval`` while no phase runs here."""
        super().run_maintenance_tasks()
        reconcile.look_around()


if __name__ == "__main__":
    main()
