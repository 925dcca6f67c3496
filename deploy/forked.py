"""A process that begins with everything that is loaded in this one, and shares that memory with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping

_PR_SET_PDEATHSIG = 1
#: What this process may have put handlers on, and what is held back around the fork.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class Forked:
    """A fork of this process that calls a function and ends with its exit code: what `Child` asks of a `Popen`.

    It is in a session of its own with the environment and the output that it is given, has no file open but these and
    no signal handler of its parent's, and ends by SIGTERM when the parent is gone. The parent must have one thread and
    no connection open.
    """

    def __init__(self, function: Callable[[], int], env: Mapping[str, str], output: int, errors: int) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # No signal reaches the handlers of the parent in its child.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.pid = os.fork()
            if not self.pid:
                _become(function, env, output, errors, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """As :meth:`poll`, once it has ended."""
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _become(function: Callable[[], int], env: Mapping[str, str], output: int, errors: int, parent: int) -> None:
    """In the fork, which never returns from here."""
    code: object = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        # Among them is the lock on the data folder, which must end with the launcher.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(env)
        # As a new Python has them; they stay as long as the process.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
        end_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = function()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        if code is not None and not isinstance(code, int):  # sys.exit with a sentence
            sys.stderr.write(f"{code}\n")
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_launcher() -> None:
    """In a new child, prctl(2): a launcher that is killed takes its children along, each as by a SIGTERM of its own."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_parent(parent: int) -> None:
    """In a fork: a parent that is killed, now or just before, takes this process along as by a SIGTERM."""
    end_with_launcher()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
