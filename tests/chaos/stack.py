"""Every process of an installation, started by the driver and started again when it was killed.

The AWS stand-in runs in the driver itself: its devices show a new code whenever one is asked for.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

from demo.aws.identities import Store
from deploy import redis_server
from deploy.processes import Child
from tests.browser import cast as browser_cast
from tests.deploy.launcher import ROOT, free_port
from tests.support.aws import Aws

#: Bytes of the file system on which working directories live.
DISK = 48 << 20
READY_SECONDS = 60.0


@dataclass
class Window:
    """Something was away; ``ended`` is set when it surely answers again. Seconds since the start."""

    what: str
    began: float
    ended: float = 1e9
    pid: int | None = None


class Stack:
    """Redis, web and workers. All processes are started by the main thread: they end with it (PR_SET_PDEATHSIG)."""

    def __init__(self, seed: int, workers: int = 3) -> None:
        # Redis listens on a unix socket in the data folder, whose path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ch-"))
        self.home, self.logs = self.folder / "h", self.folder / "logs"
        self.home.mkdir(mode=0o700)
        self.logs.mkdir(mode=0o700)
        self.world = self.folder / "world"
        self.world.touch()
        self.mounted = self._mount()
        (self.home / "aws").mkdir(mode=0o700)
        browser_cast.enlist(self.home / "aws")
        self.identities = Store(self.home / "aws", time.time)
        self.aws = Aws(self.home / "aws")
        self.waits = _Waits()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = self._environment()
        self.began = time.monotonic()
        self.windows: list[Window] = []
        self._chance = random.Random(f"{seed}-restarts")
        python = [sys.executable, "-m"]
        gunicorn = [*python, "gunicorn", "-c", "python:deploy.gunicorn_conf"]
        self.redis = Child("redis", redis_server.command(self.home), self.env, self.logs)
        self.web = Child("web", gunicorn, self.env, self.logs, grace=30)
        self.workers = [
            Child(f"worker-{number}", [sys.executable, "worker.py"], self.env, self.logs, patient=True)
            for number in range(1, workers + 1)
        ]

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def children(self) -> list[Child]:
        """All that is kept running."""
        return [self.redis, self.web, *self.workers]

    def start(self, environments: int) -> None:
        """From an empty folder to a server that answers."""
        self.redis.start()
        _until(lambda: redis_server.answers(self.home), "Redis does not answer")
        self.once("deploy.prepare")
        self.once("tests.chaos.cast", str(self.home / "aws"), str(environments))
        for child in (self.web, *self.workers):
            child.start()
        _until(self.answers, "the web server does not answer")
        self.began = time.monotonic()

    def once(self, module: str, *arguments: str) -> str:
        """Run a module of the project to its end."""
        command = [sys.executable, "-m", module, *arguments]
        with open(self.logs / f"{module.rpartition('.')[2]}.log", "ab") as log:
            done = subprocess.run(command, cwd=ROOT, env=self.env, stdout=subprocess.PIPE, stderr=log, check=True)
        return done.stdout.decode()

    def mind(self) -> None:
        """Start again what has ended, after a while; to be called all the time."""
        for child in self.children:
            if child.start_at is None and child.died():
                child.start_at = time.monotonic() + self._chance.choice((0.0, 0.5, 1.5, 4.0))
            if child.start_at is not None and time.monotonic() >= child.start_at:
                if child is self.redis:  # as redis_server.clear_stale, which asks who is there, and this one is dead
                    redis_server.socket_path(self.home).unlink(missing_ok=True)
                child.start()
        for window in self.windows:
            if window.ended == 1e9 and self._back(window):
                window.ended = self.now + 1.0

    def away(self, what: str, pid: int | None = None) -> Window:
        """Remember that something is away from now on; ``pid`` is the process that is about to be killed."""
        window = Window(what, self.now - 0.2, pid=pid)
        self.windows.append(window)
        return window

    def _back(self, window: Window) -> bool:
        child = {"redis": self.redis, "web": self.web}.get(window.what)
        if child is None or child.pid in (None, window.pid) or _session(window.pid):
            return False  # the children of a killed gunicorn answer for another second
        return redis_server.answers(self.home) if child is self.redis else self.answers()

    def answers(self) -> bool:
        """Whether the web server does."""
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End everything that was started here, terraform included."""
        for child in (self.web, *self.workers):
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while any(child.pid for child in (self.web, *self.workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for child in self.children:
            child.kill()
        for pid in self._of_this_folder():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.aws.close()
        self.waits.close()

    def remove(self, *, keep: bool) -> None:
        """The mount in any case; the folder with all logs only when nothing has to be looked at."""
        if self.mounted:
            if keep:
                shutil.copytree(self.home / "work", self.folder / "work-left", symlinks=True, dirs_exist_ok=True)
            subprocess.run(["umount", "-l", str(self.home / "work")], check=False)
        if not keep:
            shutil.rmtree(self.folder)

    def _of_this_folder(self) -> list[int]:
        """Wrappers, terraform and horses: processes whose environment or arguments name this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if str(self.folder).encode() in told:
                        found.append(int(entry.name))
        return found

    def _mount(self) -> bool:
        work = self.home / "work"
        work.mkdir(mode=0o700)
        options = ["-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(work)]
        return os.geteuid() == 0 and subprocess.run(["mount", *options], check=False).returncode == 0

    def _environment(self) -> dict[str, str]:
        rc = self.folder / "terraform.rc"
        rc.write_text("disable_checkpoint = true\n")
        env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return env | {
            "LANG": "C.UTF-8",
            "LOCKSTEP_HOME": str(self.home),
            "PORT": str(self.port),
            "AWS_ENDPOINT_URL": self.aws.endpoint,
            "TF_CLI_CONFIG_FILE": str(rc),
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
            "FORCE_AFTER_SECONDS": "3",
            "TERRAFORM_SANDBOX": "none",  # what was created is written down outside of a run's folders
        }


class _Waits:
    """Answers `/SECONDS` with an empty state after so many seconds, for the data source that makes a plan slow."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Waiting)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _Waiting(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        time.sleep(float(self.path.strip("/")))
        body = b'{"version":4,"terraform_version":"1.0.0","serial":1,"lineage":"chaos","outputs":{},"resources":[]}'
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _session(leader: int | None) -> list[int]:
    """Who is left of the session of a process that was killed."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _until(condition: object, what: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise RuntimeError(what)
        time.sleep(0.1)
