"""The PostgreSQL that tests start ends with them, and a missing one is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.deploy.launcher import wait_until
from tests.support import postgres

ROOT = Path(__file__).resolve().parents[2]

_STARTS_ONE = """
import sys, time
from tests.support import postgres
with postgres.running() as server:
    print(server.process.pid, server.folder, flush=True)
    time.sleep(120)
"""


def test_a_killed_test_run_leaves_no_server() -> None:
    with subprocess.Popen([sys.executable, "-c", _STARTS_ONE], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        server = psutil.Process(int(pid))
        assert server.is_running()
        os.kill(tests.pid, signal.SIGKILL)
        tests.wait(20)
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, 30, "it still runs")
    shutil.rmtree(folder)


def test_a_missing_postgresql_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.SETTING, "postgresql")
    monkeypatch.setattr(postgres, "programs", lambda: None)
    with pytest.raises(pytest.UsageError, match="Debian's package is postgresql"):
        postgres.chosen()


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.SETTING, "mysql")
    with pytest.raises(pytest.UsageError, match="sqlite or postgresql"):
        postgres.chosen()
