"""One supervised child process: how it is started, where it logs, how it is ended with all it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.forked import Forked, end_with_launcher

#: A log larger than this is moved to NAME.log.1 when its process starts.
LARGEST_LOG = 5 << 20
#: A child that ends this often within this many seconds is not started again.
MOST_DEATHS, DEATH_WINDOW = 5, 60.0
#: How long a child gets to end by itself, in seconds.
GRACE = 10.0
#: The same for requests that the web server is answering: a call of STS takes at most 20 s (5 to connect, 15 to read).
REQUEST_GRACE = 25
_SERIOUS = re.compile(r"\b(ERROR|CRITICAL)\b")


class Child:
    """A process of Lockstep's in a session of its own, so that a terminal's Ctrl-C reaches only the launcher.

    Its output goes straight to a log file: it neither blocks nor dies with whoever reads along.
    """

    def __init__(
        self,
        name: str,
        program: Sequence[str] | Callable[[], int],
        env: Mapping[str, str],
        logs: Path,
        *,
        stage: int = 0,
        patient: bool = False,
        grace: float = GRACE,
        advice: str = "",
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """`program`: a command line, or a function that a fork of this process calls. `stage`: children of a lower one
        are ended first. `patient`: it may have work, which is waited for at the end; what it started goes on when it
        dies; and it is started again however often that is, as while a Redis on another machine is away. `grace`: it
        is killed this many seconds after it was asked to end, unless it is patient. `advice` is said when it keeps
        dying. `prepare` runs before each start.
        """
        self.name = name
        self._program = program
        self.env = dict(env)
        self.log = logs / f"{name}.log"
        self.stage = stage
        self.patient = patient
        self.grace = grace
        self.advice = advice
        self.stopping = False
        self.start_at: float | None = None
        self._prepare = prepare
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._read_to = 0

    @property
    def pid(self) -> int | None:
        """Its process id, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll() if self._process else None

    def start(self, output: int | None = None) -> None:
        """Start it now; its standard output goes to the file descriptor `output`, else to the log."""
        if self._prepare:
            self._prepare()
        self.start_at = None
        handle = open_log(self.log)
        self._read_to = os.fstat(handle).st_size
        try:
            self._process = self._begin(handle if output is None else output, handle)
        finally:
            os.close(handle)

    def _begin(self, output: int, errors: int) -> subprocess.Popen[bytes] | Forked:
        if callable(self._program):
            return Forked(self._program, self.env, output, errors)
        return subprocess.Popen(
            self._program,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=self.env,
            start_new_session=True,
            preexec_fn=end_with_launcher if sys.platform == "linux" else None,
        )

    def died(self) -> str | None:
        """How it ended, in words, once after each end; it is then due to start again at `start_at`."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        session, self._process = self._process.pid, None
        if not self.patient:
            end_session(session, signal.SIGTERM)
        now = time.monotonic()
        self._deaths.append(now)
        recent = [at for at in self._deaths if now - at < DEATH_WINDOW]
        self.start_at = now + min(0.25 * 2 ** len(recent), 8.0)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    @property
    def hopeless(self) -> bool:
        """Whether it ended too often to be started again."""
        return (
            not self.patient and len(self._deaths) == MOST_DEATHS and time.monotonic() - self._deaths[0] < DEATH_WINDOW
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to what it started."""
        self.stopping = True
        if self.pid is not None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and its whole session at once. A running terraform has a session of its own and goes on."""
        self.stopping = True
        if self._process is not None:
            end_session(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def sweep(self) -> None:
        """End what an ended child left behind in its session."""
        if self._process is not None and not self.patient:
            end_session(self._process.pid, signal.SIGKILL)

    def serious_lines(self) -> list[str]:
        """The lines of level ERROR and CRITICAL written since the last call."""
        with contextlib.suppress(OSError), open(self.log, "rb") as file:
            file.seek(self._read_to)
            text = file.read(1 << 20)
            whole = text[: text.rfind(b"\n") + 1]
            self._read_to += len(whole)
            return [line[:300] for line in whole.decode(errors="replace").splitlines() if _SERIOUS.search(line)]
        return []


def preparing(home: Path) -> Path:
    """A file that the launcher holds locked (flock(2)) while it makes the tables; a lock ends with its holder."""
    return home / "preparing.lock"


def tail(path: Path, count: int) -> list[str]:
    """The last lines of a text file, [] when it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - (16 << 10)))
        lines = file.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()][-count:]
    return []


def end_session(session: int, number: signal.Signals) -> None:
    """Send a signal to every process of a session: a worker's job runs in a process group of its own."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # no /proc on this system: the process group is the next best
        with contextlib.suppress(OSError):
            os.killpg(session, number)
        return
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session:
                os.kill(pid, number)


def open_log(path: Path) -> int:
    """Open a log for appending, mode 0600; one grown too large is moved aside first. The caller closes it."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LARGEST_LOG:
            path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
