"""The whole stack as `make demo` starts it, and the control plane of its AWS stand-in."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from demo import mirror
from tests.browser import cast
from tests.deploy.launcher import ROOT, free_port, wait_until

READY = re.compile(r"^Lockstep is ready: (http://\S+)$", re.MULTILINE)
#: Making the sample, the stand-in and the tables on a busy machine.
READY_SECONDS = 150
STOP_SECONDS = 60


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Stack:
    """A running `make demo`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._output = home.with_name(f"{home.name}.output")
        # Nothing else of the shell's reaches it, above all no TF_CLI_CONFIG_FILE and no AWS_….
        self._env = {name: os.environ[name] for name in ("PATH", "HOME", mirror.SETTING) if name in os.environ}
        self._env |= {"LANG": "C.UTF-8", "LOCKSTEP_HOME": str(home), "PORT": str(free_port())}
        with open(self._output, "wb") as output:
            self._make = subprocess.Popen(
                ["make", "--no-print-directory", "demo", f"VENV={Path(sys.prefix)}"],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Nothing of it outlives a test run that is killed: make hands SIGTERM on to the launcher.
                preexec_fn=_end_with_parent,
            )

    @property
    def output(self) -> str:
        """What `make demo` printed so far."""
        return self._output.read_text()

    def wait_ready(self) -> None:
        """Wait for the line that says so, then learn where everything is."""
        wait_until(lambda: bool(READY.search(self.output)) or self._make.poll() is not None, READY_SECONDS, "not ready")
        ready = READY.search(self.output)
        assert ready, f"make demo ended: {self.output}"
        self.url = ready[1]
        self._standin = urlsplit(json.loads((self.home / "aws.ready").read_text())["endpoint"]).netloc
        sample = json.loads((self.home / "demo.json").read_text())
        self.passwords = {user["name"]: user["password"] for user in sample["users"]}
        self.passwords |= dict.fromkeys((*cast.PEOPLE, *cast.NEWCOMERS), cast.PASSWORD)
        subprocess.run([sys.executable, "-m", "tests.browser.cast"], cwd=ROOT, env=self._env, check=True, timeout=90)

    def stop(self) -> None:
        """Ctrl-C, which a terminal sends to the whole foreground group; asserts that all ended in order."""
        family = psutil.Process(self._make.pid).children(recursive=True)
        os.killpg(self._make.pid, signal.SIGINT)
        self._make.wait(STOP_SECONDS)
        assert "Stopped.\n" in self.output, self.output
        left = psutil.wait_procs(family, timeout=5)[1]
        assert not left, f"These were left behind: {left}"

    def kill(self) -> None:
        """End whatever is left, after a failure."""
        family = psutil.Process(self._make.pid).children(recursive=True) if self._make.poll() is None else []
        for process in family:
            process.kill()
        if self._make.poll() is None:
            self._make.kill()
            self._make.wait()

    def code(self, user: str) -> str:
        """A code of the person's device that works now; waits when all of the moment are used."""
        return self._ask("GET", f"code/{user}?wait=35").strip()

    def wrong_code(self, user: str) -> str:
        """Six digits that the device does not show."""
        return f"{(int(self._ask('GET', f'code/{user}?wait=35')) + 123457) % 1000000:06d}"

    def switch(self, **switches: Any) -> None:
        """Turn switches of the stand-in."""
        self._ask("POST", "switches", switches)

    def identity(self, user: str) -> dict[str, str]:
        """The public part of an IAM user: arn, access_key_id, mfa_serial."""
        users: dict[str, dict[str, str]] = self._state()["users"]
        return users[user]

    def session_calls(self, user: str) -> list[str]:
        """The outcomes of the person's GetSessionToken calls so far."""
        key = self.identity(user)["access_key_id"]
        calls = json.loads(self._ask("GET", "calls?action=GetSessionToken"))
        return [call["outcome"] for call in calls if call["access_key_id"] == key]

    def buckets(self) -> list[str]:
        """What exists in the stand-in's S3."""
        return list(self._state()["buckets"])

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._ask("GET", "state"))
        return state

    def _ask(self, method: str, name: str, body: object = None) -> str:
        connection = http.client.HTTPConnection(self._standin, timeout=60)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, f"/_standin/{name}", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        assert answer.status == 200, text
        return text


@contextmanager
def running() -> Iterator[Stack]:
    """`make demo` with the cast in its organizations, ended as Ctrl-C ends it."""
    # Redis listens on a unix socket in the data folder, whose path must be short.
    folder = Path(tempfile.mkdtemp(prefix="lb-"))
    try:
        cast.enlist(folder / "h" / "aws")
        stack = Stack(folder / "h")
        try:
            stack.wait_ready()
            yield stack
            stack.stop()
        finally:
            stack.kill()
    finally:
        shutil.rmtree(folder)
