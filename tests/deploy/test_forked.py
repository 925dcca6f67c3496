"""A child that is a fork of the launcher: what it has of its parent, and what it has not."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.processes import Child
from deploy.supervisor import Failed, Supervisor
from tests.deploy.launcher import wait_until


def forked(folder: Path, function: Callable[[], int], **env: str) -> Child:
    return Child("prepare", function, env, folder)


def about() -> int:
    """What a process can say of itself."""
    found = {
        "session": os.getsid(0) == os.getpid(),
        "environment": dict(os.environ),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
        "handlers": [signal.getsignal(each) is signal.SIG_DFL for each in (signal.SIGTERM, signal.SIGHUP)],
        "wakeup": signal.set_wakeup_fd(-1),
        "blocked": [str(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "input": sys.stdin.read(),
    }
    sys.stdout.write(json.dumps(found))
    return 0


def test_it_has_the_environment_it_is_given_and_nothing_open_of_its_parents(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as lock, Supervisor() as supervisor:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads(supervisor.run_once(forked(tmp_path, about, ONLY="this")))
        assert found == {
            "session": True,
            "environment": {"ONLY": "this"},
            "files": [0, 1, 2],
            "handlers": [True, True],
            "wakeup": -1,
            "blocked": [],
            "input": "",
        }
        assert os.environ.get("ONLY") is None
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL  # the supervisor still notes its signals


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (lambda: sys.exit("because"), 1, "because\n"),
        (lambda: sys.exit(3), 3, ""),
        (lambda: sys.exit(), 0, ""),
        (lambda: int("no"), 1, "ValueError: invalid literal for int() with base 10: 'no'\n"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, ""),
    ],
)
def test_it_ends_as_a_program_does(tmp_path: Path, end: Callable[[], int], code: int, said: str) -> None:
    child = forked(tmp_path, end)
    child.start()
    wait_until(lambda: child.exit_code is not None, 20, "it goes on")
    assert child.exit_code == code
    assert child.log.read_text().endswith(said)
    assert bool(said) == bool(child.log.read_text())


def test_why_a_short_one_failed_is_told(tmp_path: Path) -> None:
    with (
        Supervisor() as supervisor,
        pytest.raises(Failed, match=r"(?s)prepare did not succeed\. The end .*:\n  because$"),
    ):
        supervisor.run_once(forked(tmp_path, lambda: sys.exit("because")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_not_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    def wait() -> int:
        sys.stdout.write("up\n")
        time.sleep(60)
        return 0

    with Supervisor() as supervisor:
        child = forked(tmp_path, wait)
        supervisor.start([child])
        wait_until(lambda: child.log.read_text() == "up\n", 20, "not up")
        child.signal(number)
        wait_until(lambda: child.exit_code is not None, 20, "it goes on")
        assert child.died() in ("was ended by SIGTERM", "ended with exit code 1")
        supervisor.wait_until(lambda: True, 1, "the supervisor took the signal for its own")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    def parent() -> int:
        def child() -> int:
            (tmp_path / "pid").write_text(f"{os.getpid()} ")
            time.sleep(60)
            return 0

        forked(tmp_path, child).start()
        time.sleep(60)
        return 0

    first = forked(tmp_path, parent)
    first.start()
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith(" "), 20, "not up")
    pid = int((tmp_path / "pid").read_text())
    os.kill(first.pid or 0, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid), 20, "it outlives its parent")
    first.kill()


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
