"""A configuration that wants everything it should not have. Inside the sandbox it gets nothing of it.

The same tries without a sandbox succeed, each of them, so a try that cannot work would be noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import pytest

from extensions import db
from models import StateVersion
from policy.lifecycle import RunStatus
from services import runs, states
from services.execution import walls
from tests import factories
from tests.support import lab
from tests.support.processes import running
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

CANARY = "canary-of-another-run"
DAEMON = "98765.4321"
OTHER_STATE = {
    "version": 4, "terraform_version": "1.11.4", "serial": 99, "lineage": "someone-else", "resources": [],
    "outputs": {"secret": {"value": CANARY, "type": "string"}}, "check_results": None,
}  # fmt: skip


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the worker's user outside, with a secret in its environment, as another run's terraform."""
    process = subprocess.Popen(["/bin/sleep", "600"], env={"SECRET": CANARY})
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def treasure(bench: Bench) -> Iterator[Path]:
    """The data folder as it is in production: keys, database, Redis's socket, another run's directory."""
    home = bench.home
    made = [path for name in ("encryption_keys", "secret_key", "lockstep.db") if not (path := home / name).exists()]
    for path in made:
        path.write_text(CANARY)
    other = home / "work" / "phase-999999-1"
    (other / "state").mkdir(parents=True, mode=0o700)
    (other / "state" / "terraform.tfstate").write_text(json.dumps(OTHER_STATE))
    server, here = socket.socket(socket.AF_UNIX), os.getcwd()
    os.chdir(home)  # the path of a socket must be short
    server.bind("redis.sock")
    os.chdir(here)
    server.listen()
    yield home
    server.close()
    for path in (*made, home / "redis.sock", home / "written"):
        path.unlink(missing_ok=True)
    shutil.rmtree(other)


def tries(home: Path, victim: int, outside: Path) -> dict[str, str]:
    """Shell commands by what they are after; one that succeeds has got it."""
    python, worker = "/usr/bin/python3 -c", os.getpid()
    connect = f'import os, socket; os.chdir("{home}"); socket.socket(socket.AF_UNIX).connect("redis.sock")'
    attach = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(16, {victim}, 0, 0) != 0)"
    return {
        "encryption_keys": f"cat {home}/encryption_keys",
        "secret_key": f"cat {home}/secret_key",
        "database": f"cat {home}/lockstep.db",
        "redis": f"{python} '{connect}'",
        "data folder": f"ls {home} | grep secret_key",
        "another run's directory": f"grep {CANARY} {home}/work/phase-999999-1/state/terraform.tfstate",
        "own spool": "cat ../spool",
        "own control": "cat ../control/apply.pid",
        # Its title (setproctitle) may have taken the place of what was in there.
        "worker's environment": f"head -c 1 /proc/{worker}/environ",
        "worker's descriptors": f"ls -l /proc/{worker}/fd/",
        "worker's program": f"readlink /proc/{worker}/exe",
        "another process's environment": f"tr '\\0' '\\n' < /proc/{victim}/environ | grep {CANARY}",
        "root of another process": f"ls /proc/{victim}/root/",
        "home of the user": f"test $(ls -A {Path.home()} | wc -l) = {len(list(Path.home().iterdir()))}",
        "passwords": "cat /etc/shadow",
        "ptrace": f"{python} '{attach}'",
        "kill": f"kill -CONT {victim}",
        "write outside": f"touch {outside}/written",
        "write to the data folder": f"touch {home}/written",
        "write to /etc": "test -w /etc/passwd",
        "write to the kernel's settings": "test -w /proc/sys/kernel/core_pattern",
        "devices": "test -e /dev/vda -o -e /dev/sda -o -e /dev/kmsg -o -e /dev/mem",
        "user id 0": "test $(id -u) = 0 || /usr/bin/python3 -c 'import os; os.setuid(0)'",
        "setuid programs": "grep 'NoNewPrivs:.0' /proc/self/status",
        "capabilities": "grep -E 'CapEff:.*[1-9a-f]' /proc/self/status",
        "mount": "mount -t tmpfs tmpfs $TMPDIR && umount $TMPDIR",
        "namespaces": "unshare -m true",
        "endless processes": "awk '/Max processes/ { exit !($3 > 4096) }' /proc/self/limits",
        "endless files": "grep 'Max file size.*unlimited' /proc/self/limits",
    }


def hostile(wanted: dict[str, str], home: Path) -> str:
    """A configuration that tries all of it, through provisioners and functions, and leaves traps behind."""
    tried = [
        f"if ( {command} ) >/dev/null 2>&1; then echo {quote(f'got {name}.')}; fi" for name, command in wanted.items()
    ]
    lasting = f"setsid /bin/sleep {DAEMON} </dev/null >/dev/null 2>&1 & echo tried; exit 0"
    traps = (
        f"rm -f ../state/terraform.tfstate; ln -s {home}/work/phase-999999-1/state/terraform.tfstate ../state/; "
        f"ln -s {home}/work/phase-999999-1/state/terraform.tfstate errored.tfstate; "
        f"ln -s {home}/work/phase-999999-1 kept; rm -f .terraform.lock.hcl; mkfifo .terraform.lock.hcl"
    )
    lines = json.dumps("\n".join([*tried, traps, lasting])).replace("${", "$${")
    return (
        f'locals {{ read = can(file("{home}/secret_key")) }}\n'
        'resource "terraform_data" "it" {\n'
        f'  provisioner "local-exec" {{ command = {lines} }}\n'
        '  provisioner "local-exec" { command = local.read ? "echo \'got file().\'" : "true" }\n}\n'
    )


def got(bench: Bench, victim: int, outside: Path) -> tuple[set[str], set[str]]:
    """What it got, and what it tried to get."""
    wanted = tries(bench.home, victim, outside)
    run = bench.confirmed(hostile(wanted, bench.home))
    bench.work(run.apply)
    log = lab.log_of(run.apply)
    assert "(local-exec): tried" in log, log
    names = {line.partition("got ")[2].rstrip(".") for line in log.splitlines() if "(local-exec): got " in line}
    stored = db.session.query(StateVersion).all()
    assert not any(CANARY.encode() in states.content(bench.environment, found.number)[1] for found in stored)
    assert (bench.home / "work" / "phase-999999-1" / "state" / "terraform.tfstate").exists(), "removed through a link"
    assert bench.workdirs() == ["phase-999999-1"]
    return names, {*wanted, "file()"}


def test_inside_the_sandbox_it_gets_nothing(
    bench: Bench, treasure: Path, victim: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert walls.find_walls("auto").bwrap
    names, _ = got(bench, victim.pid, tmp_path)
    assert names == set()
    assert not (tmp_path / "written").exists() and not (treasure / "written").exists()
    assert victim.poll() is None
    assert running(DAEMON) == []


def test_without_a_sandbox_it_gets_all_of_it(
    bench: Bench, treasure: Path, victim: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("some of it takes root")
    bench.settings(monkeypatch, terraform_sandbox="none")
    left = []
    try:
        names, wanted = got(bench, victim.pid, tmp_path)
        left = running(DAEMON)
        assert wanted - names == set()
        assert left, "a daemon in a session of its own stays"
    finally:
        for pid in left or running(DAEMON):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_the_log_says_that_there_is_no_sandbox(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.planned('resource "terraform_data" "it" {}\n')
    assert "sandbox" not in lab.log_of(run.plan)
    bench.settings(monkeypatch, terraform_sandbox="none")
    runs.confirm(factories.member(), run)
    assert bench.work(run.apply) is RunStatus.APPLIED
    assert "No sandbox: what this run starts can read what the worker can." in lab.log_of(run.apply)
    assert "error" in lab.tones_of(run.apply) and "bad" not in lab.tones_of(run.apply)


def test_where_one_is_demanded_nothing_runs_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.settings(monkeypatch, terraform_sandbox="bwrap")
    monkeypatch.setattr(walls, "_tried", lambda: walls.Walls(None, "bubblewrap is not installed."))
    run = bench.run('resource "terraform_data" "it" {}\n')
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error == "TERRAFORM_SANDBOX is bwrap, and bubblewrap is not installed. Nothing was run."


PASSING = "Whether a sandbox can be made could not be found out: bwrap gave no answer within 20 s."


def test_what_keeps_a_sandbox_from_being_made_at_the_moment_takes_it_from_no_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def passing() -> walls.Walls:
        tried.append(1)
        return walls.Walls(None, PASSING, unknown=True)

    monkeypatch.setattr(walls, "_PAUSE", 0)
    with monkeypatch.context() as patch:
        patch.setattr(walls, "_tried", passing)
        run = bench.run('resource "terraform_data" "it" {}\n')
        assert bench.work(run.plan) is RunStatus.ERRORED
    assert len(tried) == 3
    assert run.error == (
        f"{PASSING} Nothing was run. Queue a new run; if that ends like this too, flask doctor on the worker’s machine "
        "says more."
    )
    assert bench.planned('resource "terraform_data" "it" {}\n').error == ""
