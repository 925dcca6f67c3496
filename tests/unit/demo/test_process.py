"""The stand-in as a program: start, ready file, end, and what must not outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.aws.__main__ import main
from demo.aws.identities import USERS
from demo.aws.server import StateInUse, running
from tests.unit.demo.conftest import authenticate, client

ROOT = Path(__file__).resolve().parents[3]


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@contextmanager
def program(folder: Path, *extra: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The program, once its ready file is there, and what that says."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "demo.aws", "serve", "--state", str(folder / "aws")]
    process = subprocess.Popen(
        [*command, "--ready-file", str(ready), *extra],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: ready.exists() or process.poll() is not None)
        yield process, json.loads(ready.read_text())
    finally:
        process.kill()
        process.communicate()


def moto_of(pid: int) -> psutil.Process:
    """The moto child of a stand-in."""
    children: list[psutil.Process] = psutil.Process(pid).children()
    assert len(children) == 1
    return children[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_all_its_parts(tmp_path: Path, number: signal.Signals) -> None:
    with program(tmp_path) as (process, ready):
        assert ready == {
            "endpoint": f"http://127.0.0.1:{ready['port']}",
            "port": ready["port"],
            "pid": process.pid,
        }
        moto = moto_of(process.pid)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert process.returncode == 0 and errors == ""
        assert ready["endpoint"] + "/_standin/" in output
        assert not moto.is_running()
        assert not (tmp_path / "ready.json").exists()


def test_moto_does_not_outlive_a_killed_stand_in(tmp_path: Path) -> None:
    with program(tmp_path) as (process, _):
        moto = moto_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        moto.wait(timeout=30)


def test_a_taken_port_and_a_taken_folder_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path / "one") as standin:
        with pytest.raises(StateInUse), running(tmp_path / "one"):
            pass
        for folder, port in (("one", "0"), ("two", str(standin.port))):
            command = [sys.executable, "-m", "demo.aws", "--port", port, "--state", str(tmp_path / folder)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
            assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    with running(tmp_path / "one"):
        assert capsys.readouterr().err == ""


def test_the_code_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["code", "alice", "--state", str(tmp_path)]) == 1
    assert "No AWS stand-in has run" in capsys.readouterr().err
    with running(tmp_path, true_time=time.time) as standin:
        for user in USERS:
            assert main(["code", user, "--state", str(tmp_path)]) == 0
            typed = capsys.readouterr().out.strip()
            assert typed in {standin.code(user, step) for step in (-1, 0, 1)}
        assert main(["code", "nobody", "--state", str(tmp_path)]) == 1
        assert "alice, bob" in capsys.readouterr().err


def test_buckets_are_kept_in_memory_only(tmp_path: Path) -> None:
    with running(tmp_path) as standin:
        keys = authenticate(standin)
        s3 = client(standin, "s3", keys)
        s3.create_bucket(Bucket="gone", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        assert standin.bucket_names() == ["gone"]
        pid = standin.moto_pid
    assert pid is not None and not psutil.pid_exists(pid)
    with running(tmp_path) as standin:
        assert client(standin, "s3", keys).list_buckets()["Buckets"] == []
