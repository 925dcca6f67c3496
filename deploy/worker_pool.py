"""The workers of `make run`: one process that loads everything once and forks them, so that they share its memory.

`python -m deploy.worker_pool`, as many as WORKERS says. A worker that dies is forked again. A signal is passed on to
all of them, and this process ends when they have ended.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from types import FrameType

from flask import Flask

import worker
from deploy.processes import end_with_parent

log = logging.getLogger("worker_pool")

#: Seconds before a worker that died is forked again; twice as many each time, up to the second one.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0

#: One that lived this long, in seconds, did not die of its start.
LIVED = 60.0


class Pool:
    """The workers by pid, each with the moment of its start and the pause before it is forked again."""

    def __init__(self, app: Flask, count: int) -> None:
        self._app, self._count = app, count
        self._workers: dict[int, tuple[float, float]] = {}
        self._stopping = False

    def run(self) -> None:
        """Fork them and look after them; returns when a signal has ended them all."""
        passed = (signal.SIGTERM, signal.SIGINT)
        for number in passed:
            signal.signal(number, self._pass_on)
        for _ in range(self._count):
            self._fork(FIRST_PAUSE)
        while self._workers:
            pid, status = os.waitpid(-1, 0)
            if pid not in self._workers:
                continue
            started, pause = self._workers.pop(pid)
            if self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            log.error("a worker %s and is started again", how)
            pause = FIRST_PAUSE if time.monotonic() - started > LIVED else pause
            time.sleep(pause)
            self._fork(min(2 * pause, LONGEST_PAUSE))

    def _fork(self, pause: float) -> None:
        # No signal comes between the fork and the moment from which it is passed on.
        passed = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, passed)
        parent, pid = os.getpid(), 0
        try:
            if not self._stopping and (pid := os.fork()) != 0:
                self._workers[pid] = (time.monotonic(), pause)
        finally:
            if pid or self._stopping:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
        if not pid and not self._stopping:
            self._work(parent, passed)

    def _work(self, parent: int, passed: set[signal.Signals]) -> None:
        """In the fork: be a worker, to the end."""
        code = 1
        try:
            end_with_parent(parent)
            for number in passed:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
            worker.work(self._app)
            code = 0
        except BaseException as error:
            log.error("a worker ends: %s", type(error).__name__)
        finally:
            logging.shutdown()
            os._exit(code)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for pid in list(self._workers):
            os.kill(pid, number)


def main() -> int:
    """Load, fork, look after them."""
    app = worker.load()
    Pool(app, app.config["LOCKSTEP"].workers).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
