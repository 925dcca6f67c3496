"""Keeps the launcher's children running, and ends them in order."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

from deploy.processes import Child, tail

#: How long a child gets to end by itself after a second Ctrl-C, in seconds.
SHORT_GRACE = 3.0


class Failed(Exception):
    """Lockstep cannot start or go on; the text is for the terminal."""


class StopRequested(Exception):
    """Ctrl-C, SIGTERM or a closed terminal."""


def say(text: str = "") -> None:
    """One line on the terminal; a terminal that is gone is no reason to stop half-way."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


class Supervisor:
    """The children, in the order they were started.

    A context manager for the main thread: inside it signals are noted, at its end no child is left.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._requests = 0
        self._ctrl_c = True
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Supervisor:
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._former[number] = signal.signal(number, self._note)
        # Noted only to wake up at once when a child ends.
        self._former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in self._former.items():
                signal.signal(number, handler)
            self._wake.close()
            self._waker.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1
        self._ctrl_c = self._ctrl_c and number == signal.SIGINT

    def start(self, children: Iterable[Child]) -> None:
        """Start children and look after them from now on."""
        for child in children:
            self.children.append(child)
            child.start()

    def run(self) -> None:
        """Look after the children until :class:`StopRequested` or :class:`Failed`."""
        while True:
            self._tick(0.5)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Look after the children until `condition` holds.

        Raises :class:`Failed` with the sentence `what` after `seconds`, :class:`StopRequested` on a stop.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise Failed(what)
            self._tick(0.1)

    def run_once(self, child: Child) -> str:
        """Run a short command: its standard output. Raises :class:`Failed` with the end of its log."""
        with tempfile.TemporaryFile() as output:
            child.start(output.fileno())
            try:
                while child.exit_code is None:
                    self._tick(0.5)
            finally:
                child.kill()
            if child.exit_code:
                raise Failed(_with_lines(f"{child.name} did not succeed. {child.advice}".strip(), child))
            output.seek(0)
            return output.read().decode()

    def stop(self) -> None:
        """End every child, lower stages first, and return when none is left."""
        for stage in sorted({child.stage for child in self.children}):
            self._stop([child for child in self.children if child.stage == stage])

    def _stop(self, children: Sequence[Child]) -> None:
        # Ctrl-C waits for a run that goes on; SIGTERM, as of a deploy, leaves its terraform to the next start.
        for child in children:
            child.signal(signal.SIGINT if child.patient and self._requests and self._ctrl_c else signal.SIGTERM)
        first, told, hurried = time.monotonic(), False, 0.0
        while running := [child for child in children if child.pid is not None]:
            self._sleep(0.2)
            now = time.monotonic()
            for child in running:
                if not child.patient and now - first > child.grace:
                    child.kill()
            if not told and any(child.patient and now - first > child.grace for child in running):
                told = True
                say("A run is still going, and Lockstep waits for it. Ctrl-C leaves it to the next start.")
            if self._requests > 1 and not hurried:
                hurried = now
                for child in running:
                    child.signal(signal.SIGTERM)
            if hurried and now - hurried > SHORT_GRACE:
                for child in running:
                    child.kill()
        for child in children:
            child.sweep()

    def _tick(self, seconds: float) -> None:
        self._sleep(seconds)
        if self._requests:
            raise StopRequested
        for child in self.children:
            for line in child.serious_lines():
                say(f"{child.name}: {line}")
            ending = child.died()
            if ending and child.hopeless:
                advice = f"{child.name} keeps ending, so Lockstep ends. {child.advice}".strip()
                raise Failed(_with_lines(advice, child))
            if ending:
                say(f"{child.name} {ending} and is started again.")
            if child.start_at is not None and time.monotonic() >= child.start_at:
                child.start()

    def _sleep(self, seconds: float) -> None:
        """Until a signal comes, at most `seconds`."""
        select.select([self._wake], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)


def _with_lines(text: str, child: Child) -> str:
    lines = "".join(f"\n  {line}" for line in tail(child.log, 12))
    return f"{text} The end of {child.log}:{lines}"
