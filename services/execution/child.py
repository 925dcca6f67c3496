"""A terraform process that runs on its own: asking for its end, interrupting it, finding it again.

Everything is read from the files that `child_wrapper.py` leaves in the control folder and from /proc, so a
process that did not start the child can follow it just as well. Linux only (proc(5), pidfd_open(2)).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ChildError(Exception):
    """Something about a child process; the message is a plain sentence."""


class ChildNotStarted(ChildError):
    """There is no record of such a child, which means that its command never ran."""


class ChildAlreadyStarted(ChildError):
    """The step was started before in this control folder; nothing was started now."""


class ChildVanished(ChildError):
    """Wrapper and command are gone without an exit code (killed from outside, or the machine restarted)."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    start_time: int
    boot_id: str

    @classmethod
    def own(cls) -> ProcessId:
        """The present process."""
        found = _stat(os.getpid())
        assert found is not None  # noqa: S101 (it runs)
        return cls(os.getpid(), found[0], boot_id())

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self.boot_id == boot_id() and _stat(self.pid) == (self.start_time, True)

    def signal(self, number: int) -> bool:
        """Send it a signal; False when it is gone. A recycled pid is never hit."""
        with self._held() as descriptor:
            if descriptor is None:
                return False
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return False
            return True

    def wait(self, timeout: float | None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; whether it has."""
        with self._held() as descriptor:
            if descriptor is None:
                return True
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(None if timeout is None else max(timeout, 0) * 1000))

    @contextlib.contextmanager
    def _held(self) -> Iterator[int | None]:
        """A descriptor of this very process, or None when it is gone.

        Once the descriptor is open the number cannot come to mean another process for it, so the check
        of the start time after opening leaves no gap.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield descriptor if self.alive() else None
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Child:
    """One command started by `terraform.start`, or found again by `attach`."""

    control: Path
    step: str
    wrapper: ProcessId
    command: ProcessId
    started_at: float
    """Seconds since the epoch."""
    argv: tuple[str, ...]
    init: ProcessId | None = None
    """The first process of its sandbox, with which everything inside ends; None without a sandbox."""

    @property
    def pid(self) -> int:
        """Pid of the wrapper."""
        return self.wrapper.pid

    def terraform_pid(self) -> int:
        """Pid of terraform itself, also once it has ended."""
        return self.command.pid

    def exit_code(self) -> int | None:
        """Exit code, negative for the signal that ended it; None while it runs.

        Raises ChildVanished when it can never be known. A terraform whose wrapper was killed still runs
        and is left to finish: only then is it called vanished.
        """
        outcome = self._outcome()
        return None if outcome is None else int(outcome["exit_code"])

    def duration(self) -> float | None:
        """Seconds from start to end, None while it runs; raises like `exit_code`."""
        outcome = self._outcome()
        return None if outcome is None else float(outcome["duration"])

    def running(self) -> bool:
        """Whether terraform itself still runs."""
        return self.command.alive()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait at most `timeout` seconds for the end; then as `exit_code`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        # The exit code is there once the wrapper has gone; without a wrapper, see terraform out.
        for process in (self.wrapper, self.command):
            left = None if deadline is None else deadline - time.monotonic()
            if not process.wait(left):
                break
        return self.exit_code()

    def interrupt(self) -> bool:
        """Ask terraform once to stop: it breaks off what is in flight, saves the state and exits 1.

        Only terraform's own pid gets the SIGINT; its provider processes must outlive it. A second one
        makes terraform leave at once, with a possible loss of state. False when it has already ended.
        """
        return self.command.signal(signal.SIGINT)

    def kill_session(self) -> None:
        """SIGKILL terraform and everything it started; the wrapper stays and records the end.

        The state keeps what was written up to now, and a stale lock file may stay beside it.
        """
        if self.command.boot_id != boot_id():
            return
        if self.init is not None:
            self.init.signal(signal.SIGKILL)
            return
        present = _stat(self.command.pid)
        if present is not None and present[0] != self.command.start_time:
            return  # The number belongs to another process now, and so would the session.
        self.command.signal(signal.SIGKILL)
        for pid in _session_members(self.command.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _outcome(self) -> dict[str, Any] | None:
        outcome = self._exit_file()
        if outcome is not None or self.wrapper.alive() or self.command.alive():
            return outcome
        # It may have ended between the two looks.
        outcome = self._exit_file()
        if outcome is None:
            raise ChildVanished(f"terraform {self.step} ended without leaving an exit code.")
        return outcome

    def _exit_file(self) -> dict[str, Any] | None:
        try:
            outcome: dict[str, Any] = json.loads((self.control / f"{self.step}.exit").read_bytes())
        except FileNotFoundError:
            return None
        return outcome


def attach(control: Path, step: str) -> Child:
    """The child that was started as `step` with this control folder, by whatever process.

    Raises ChildNotStarted when there is no record: the command never ran, so it may be started.
    """
    try:
        record = json.loads((control / f"{step}.pid").read_bytes())
    except FileNotFoundError:
        raise ChildNotStarted(f"terraform {step} was never started here.") from None
    boot = record["boot_id"]
    return Child(
        control=control,
        step=step,
        wrapper=ProcessId(record["wrapper_pid"], record["wrapper_start_time"], boot),
        command=ProcessId(record["pid"], record["start_time"], boot),
        started_at=record["started_at"],
        argv=tuple(record["argv"]),
        init=ProcessId(record["init_pid"], record["init_start_time"], boot) if "init_pid" in record else None,
    )


def pid_exists(pid: int) -> bool:
    """Whether any process has this number now; a zombie has ended."""
    found = _stat(pid)
    return found is not None and found[1]


def boot_id() -> str:
    """The running kernel's boot id (random(4)): pids and start times of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _fields(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third (state) on; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _stat(pid: int) -> tuple[int, bool] | None:
    """Start time (clock ticks since boot) and whether it runs (neither zombie nor dead)."""
    fields = _fields(pid)
    return None if fields is None else (int(fields[19]), fields[0] not in (b"Z", b"X"))


def _session_members(session: int) -> list[int]:
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _fields(int(entry))) is not None and int(fields[3]) == session:
            members.append(int(entry))
    return members
