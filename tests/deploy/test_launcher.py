"""`make run` as a person meets it: it starts everything, keeps it running, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.processes import preparing
from tests.deploy.launcher import ROOT, Launched, alive, free_port, launched, wait_until, words

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("run")
    with launched(folder / "home", folder / "output", WORKERS="1", WEB_PROCESSES="1") as launcher:
        launcher.wait_ready()
        yield launcher


def test_it_answers_and_offers_the_first_account(running: Launched) -> None:
    assert running.status("/health") == 200
    link = re.search(rf"http://127\.0\.0\.1:{running.port}(/setup/\S+)", running.output)
    assert link
    assert running.status(link[1]) == 200
    assert running.status("/setup/another") == 404


def test_everything_it_writes_is_private(running: Launched) -> None:
    for path in [running.home, *running.home.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_nothing_but_the_web_server_listens_on_a_port(running: Launched) -> None:
    listening = set()
    for process in running.family():
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that begins asks terraform for its version
            found = process.net_connections("inet")
            listening |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    assert listening == {running.port}


def test_a_second_start_on_the_same_folder_is_refused(running: Launched, tmp_path: Path) -> None:
    with launched(running.home, tmp_path / "output") as second:
        assert second.wait_ended() == 1
        pid = running.process.pid
        assert second.output == f"Lockstep is already running on this data folder (pid {pid}).\n"
    assert running.status("/health") == 200


@pytest.mark.parametrize("name", ["redis", "web", "worker-1"])
def test_a_process_that_dies_is_started_again(running: Launched, name: str) -> None:
    word = {"redis": "redis-server", "web": "gunicorn: master", "worker-1": "rq:worker:"}[name]
    before = running.child(word)
    before.kill()
    said = f"{name} was ended by SIGKILL and is started again.\n"
    wait_until(lambda: said in running.output, 10, "it was not noticed")
    wait_until(lambda: any(word in words(p) for p in running.family()), 10, "it was not started")
    wait_until(lambda: running.status("/health") == 200, 20, "it does not answer")
    assert running.child(word).pid != before.pid


def test_the_web_server_takes_no_request_while_the_tables_are_made(tmp_path: Path) -> None:
    port = free_port()
    env = {"PATH": os.environ["PATH"], "LOCKSTEP_HOME": str(tmp_path), "PORT": str(port)}
    argv = [sys.executable, "-m", "gunicorn", "-c", "python:deploy.gunicorn_conf"]
    with open(preparing(tmp_path), "a") as file, open(tmp_path / "output", "wb") as output:
        fcntl.flock(file, fcntl.LOCK_EX)
        web = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=output, stderr=output)
        try:
            wait_until(lambda: f":{port}" in (tmp_path / "output").read_text(), 60, "it does not listen")
            answers = socket.create_connection(("127.0.0.1", port), timeout=1)
            answers.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            with pytest.raises(TimeoutError):
                answers.recv(1)
            fcntl.flock(file, fcntl.LOCK_UN)
            answers.settimeout(60)
            assert answers.recv(12) == b"HTTP/1.1 200"
            answers.close()
        finally:
            web.terminate()
            web.wait(60)


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with launched(tmp_path / "home", tmp_path / "output", WORKERS="2") as launcher:
        launcher.wait_ready()
        # Redis, gunicorn with two processes, and two workers.
        wait_until(lambda: len(launcher.family()) >= 6, 20, "not all are there")
        family = launcher.family()
        launcher.process.send_signal(signal.SIGINT)
        assert launcher.wait_ended() == 0
        assert alive(family) == []
        assert launcher.output.endswith("Stopping …\nStopped.\n")
    assert not (tmp_path / "home" / "redis.sock").exists()
    assert (tmp_path / "home" / "redis" / "dump.rdb").exists()


def test_ctrl_c_while_starting_ends_everything(tmp_path: Path) -> None:
    with launched(tmp_path / "home", tmp_path / "output") as launcher:
        wait_until(lambda: len(launcher.family()) >= 2, 30, "nothing was started")
        family = launcher.family()
        launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait_ended() == 0
        assert alive(family) == []


def test_a_launcher_that_is_killed_takes_its_processes_along(tmp_path: Path) -> None:
    with launched(tmp_path / "home", tmp_path / "output", WORKERS="1", WEB_PROCESSES="1") as first:
        first.wait_ready()
        family = first.family()
        first.process.kill()
        first.process.wait()
        assert psutil.wait_procs(family, timeout=20)[1] == []
    with launched(tmp_path / "home", tmp_path / "output", WORKERS="1", WEB_PROCESSES="1") as second:
        second.wait_ready()


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with launched(tmp_path / "home", tmp_path / "output", PORT=str(port)) as launcher:
            assert launcher.wait_ended() == 1
            said = rf"Port {port} is taken\. Set PORT to another one: make run PORT=\d+\.\n"
            assert re.fullmatch(said, launcher.output)


def test_a_setting_that_makes_no_sense_is_one_clear_line(tmp_path: Path) -> None:
    with launched(tmp_path / "home", tmp_path / "output", WORKERS="many") as launcher:
        assert launcher.wait_ended() == 1
        assert launcher.output == "WORKERS must be a whole number from 1 to 64.\n"


def test_a_host_of_another_machine_is_one_clear_line(tmp_path: Path) -> None:
    with launched(tmp_path / "home", tmp_path / "output", HOST="192.0.2.1") as launcher:
        assert launcher.wait_ended() == 1
        assert launcher.output.startswith("Lockstep cannot listen on 192.0.2.1: ")
        assert launcher.output.count("\n") == 1


def test_a_broken_data_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "lockstep.db").write_bytes(b"not a database" * 100)
    os.chmod(tmp_path / "home" / "lockstep.db", 0o600)
    with launched(tmp_path / "home", tmp_path / "output") as launcher:
        family = wait_family(launcher)
        assert launcher.wait_ended() == 1
        assert "prepare did not succeed." in launcher.output
        assert "file is not a database" in launcher.output
        assert alive(family) == []


def wait_family(launcher: Launched) -> list[psutil.Process]:
    """Its processes, as soon as there are some."""
    wait_until(lambda: bool(launcher.family()), 30, "nothing was started")
    return launcher.family()
