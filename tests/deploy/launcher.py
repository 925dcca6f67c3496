"""Starts the launcher as `make run` and `make demo` do, for tests, and never leaves anything behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
READY = "Lockstep is ready: "


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition; fails with `what`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def words(process: psutil.Process) -> str:
    """Its command line; "" for one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie, too
        return ""


class Launched:
    """A launcher under test."""

    def __init__(self, home: Path, output: Path, *arguments: str, **settings: str) -> None:
        self.home = home
        self.port = free_port()
        self._output = output
        env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        env |= {"LOCKSTEP_HOME": str(home), "PORT": str(self.port), **settings}
        with open(output, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.launch", *arguments],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text()

    def wait_ready(self) -> None:
        """Wait for the line that says so."""
        wait_until(lambda: READY in self.output or self.process.poll() is not None, 90, "not ready")
        assert f"{READY}http://127.0.0.1:{self.port}\n" in self.output, self.output

    def wait_ended(self, seconds: float = 30) -> int:
        """Wait for its end: the exit code."""
        return self.process.wait(seconds)

    def status(self, path: str) -> int:
        """The status of a GET, 0 when nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def family(self) -> list[psutil.Process]:
        """Everything it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """Its own child with this word in its command line."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if word in words(child))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run. An orphan that has ended is none of them, however long the machine's init takes to reap it."""
    left = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


@contextmanager
def launched(home: Path, output: Path, *arguments: str, **settings: str) -> Iterator[Launched]:
    """A launcher that is ended with everything it started, whatever happens."""
    launcher = Launched(home, output, *arguments, **settings)
    try:
        yield launcher
    finally:
        if launcher.process.poll() is None:
            family = launcher.family()
            launcher.process.send_signal(signal.SIGTERM)
            try:
                launcher.process.wait(20)
            except subprocess.TimeoutExpired:
                launcher.process.kill()
                launcher.process.wait()
            for process in psutil.wait_procs(family, timeout=5)[1]:
                process.kill()
