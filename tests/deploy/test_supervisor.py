"""The supervisor with small stand-ins for its children."""

from __future__ import annotations

import importlib
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import launch, processes, redis_server
from deploy.processes import Child
from deploy.supervisor import Failed, StopRequested, Supervisor
from services.mfa import sts
from tests.deploy.launcher import wait_until


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as supervisor:
        yield supervisor


def child(folder: Path, name: str, code: str, **options: float | str) -> Child:
    return Child(name, [sys.executable, "-c", code], dict(os.environ), folder, **options)  # type: ignore[arg-type]


#: A program that heeds no request to end, for so many seconds.
DEAF = (
    "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]; "
    "print('up', flush=True); time.sleep({})"
)


def test_a_child_that_keeps_ending_ends_everything(supervisor: Supervisor, tmp_path: Path) -> None:
    dying = child(tmp_path, "web", "import sys; sys.exit('no such table')", advice="Look there.")
    supervisor.start([dying])
    dying._deaths.extend([time.monotonic()] * 3)
    with pytest.raises(Failed) as failure:
        supervisor.wait_until(lambda: False, 30, "it was not noticed")
    assert str(failure.value) == (
        f"web keeps ending, so Lockstep ends. Look there. The end of {dying.log}:\n  no such table\n  no such table"
    )


def test_a_worker_that_keeps_ending_is_not_given_up(supervisor: Supervisor, tmp_path: Path) -> None:
    dying = child(tmp_path, "worker-1", "import sys; sys.exit('no Redis')", patient=True)
    supervisor.start([dying])
    dying._deaths.extend([time.monotonic()] * 5)
    supervisor.wait_until(lambda: dying.start_at is not None, 30, "its end was not noticed")
    assert not dying.hopeless


def test_what_is_serious_is_shown(supervisor: Supervisor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.log").write_text("ERROR of an earlier start\n")
    talking = "import time; print('INFO fine\\nERROR broken', flush=True); time.sleep(60)"
    supervisor.start([child(tmp_path, "web", talking)])
    seen = []

    def said() -> bool:
        seen.append(capfd.readouterr().out)
        return "".join(seen) == "web: ERROR broken\n"

    supervisor.wait_until(said, 20, "it was not shown")


def test_a_short_command_gives_its_output(supervisor: Supervisor, tmp_path: Path) -> None:
    assert supervisor.run_once(child(tmp_path, "prepare", "print('yes')")) == "yes\n"


def test_a_short_command_that_fails_says_why(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"(?s)prepare did not succeed\. The end of .*prepare\.log:\n  because$"):
        supervisor.run_once(child(tmp_path, "prepare", "import sys; sys.exit('because')"))


def test_a_condition_that_never_holds_is_given_up(supervisor: Supervisor) -> None:
    with pytest.raises(Failed, match="Redis does not answer"):
        supervisor.wait_until(lambda: False, 0.2, "Redis does not answer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_noticed_at_once(supervisor: Supervisor, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    before = time.monotonic()
    with pytest.raises(StopRequested):
        supervisor.run()
    assert time.monotonic() - before < 0.4


def test_children_end_in_the_order_of_their_stages(supervisor: Supervisor, tmp_path: Path) -> None:
    noting = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open({path!r}, 'a').write({name!r}); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    path = str(tmp_path / "order")
    names = {"redis": 2, "web": 0, "aws": 1}
    children = [
        child(tmp_path, name, noting.format(path=path, name=name), stage=stage) for name, stage in names.items()
    ]
    supervisor.start(children)
    wait_until(lambda: all(each.log.stat().st_size for each in children), 20, "not up")
    supervisor.stop()
    assert Path(path).read_text() == "webawsredis"


@pytest.mark.parametrize(
    ("number", "got"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGTERM")]
)
def test_ctrl_c_waits_for_work_and_a_deploy_leaves_it(
    supervisor: Supervisor, tmp_path: Path, number: signal.Signals, got: str
) -> None:
    telling = (
        "import signal, sys, time\n"
        "def end(number, _): print(signal.Signals(number).name, flush=True); sys.exit()\n"
        "for each in (signal.SIGINT, signal.SIGTERM): signal.signal(each, end)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    web, worker = child(tmp_path, "web", telling), child(tmp_path, "worker-1", telling, patient=True)
    supervisor.start([web, worker])
    wait_until(lambda: all(each.log.stat().st_size for each in (web, worker)), 20, "not up")
    os.kill(os.getpid(), number)
    with pytest.raises(StopRequested):
        supervisor.run()
    supervisor.stop()
    assert worker.log.read_text().split() == ["up", got]
    assert web.log.read_text().split() == ["up", "SIGTERM"]


def test_a_second_stop_does_not_wait_for_work(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.supervisor.SHORT_GRACE", 0.2)
    working_on = DEAF.format(60)
    working = child(tmp_path, "worker-1", working_on, patient=True)
    supervisor.start([working])
    wait_until(lambda: working.log.stat().st_size > 0, 20, "not up")
    pid = working.pid
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    supervisor._requests = 2  # two signals at once may be noted as one
    supervisor.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_work_is_waited_for_and_the_web_server_is_not(
    supervisor: Supervisor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    web = child(tmp_path, "web", DEAF.format(60), grace=0.2)
    worker = child(tmp_path, "worker-1", DEAF.format(2), patient=True, grace=0.2)
    supervisor.start([web, worker])
    wait_until(lambda: all(each.log.stat().st_size for each in (web, worker)), 20, "not up")
    supervisor.stop()
    assert web.exit_code == -signal.SIGKILL
    assert worker.exit_code == 0
    assert "A run is still going" in capfd.readouterr().out


def test_each_child_has_its_own_grace(supervisor: Supervisor, tmp_path: Path) -> None:
    slow = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(7)))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    web = child(tmp_path, "web", slow, grace=30.0)
    other = child(tmp_path, "other", slow, grace=0.2)
    supervisor.start([web, other])
    wait_until(lambda: all(each.log.stat().st_size for each in (web, other)), 20, "not up")
    supervisor.stop()
    assert (web.exit_code, other.exit_code) == (7, -signal.SIGKILL)


def test_the_web_server_has_time_for_an_answer_of_sts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_HOME", str(tmp_path))
    served = importlib.import_module("deploy.gunicorn_conf")  # reads the settings
    longest = sts.CONNECT_SECONDS + sts.READ_SECONDS
    assert longest < served.graceful_timeout < launch.WEB_GRACE


def test_a_large_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LARGEST_LOG", 10)
    log = tmp_path / "web.log"
    log.write_text("more than ten bytes")
    os.close(processes.open_log(log))
    assert log.read_text() == ""
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert (tmp_path / "web.log.1").read_text() == "more than ten bytes"


def test_a_redis_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    """Every start asks whether one outlived the last launcher; the client would try again for seconds."""
    began = time.monotonic()
    redis_server.clear_stale(tmp_path)
    assert not redis_server.answers(tmp_path)
    assert time.monotonic() - began < 1
