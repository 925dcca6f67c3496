"""The cgroup of runs, for tests of what it refuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.execution import network
from services.execution.network_programs import Rules


@contextlib.contextmanager
def enclosed(rules: Rules) -> Iterator[Path]:
    """The cgroup for these rules, which is removed at the end.

    Where there can be none, the test is skipped with the reason (and fails under CI, as all skips).
    """
    folder = made(rules)
    try:
        yield folder
    finally:
        _remove(folder)


def made(rules: Rules) -> Path:
    """The cgroup for these rules; skips as `enclosed`."""
    found = network.enclosure(rules)
    if found.folder is None:
        pytest.skip(f"no connection can be refused here: {found.why}")
    return found.folder


def _remove(folder: Path) -> None:
    for _ in range(100):  # a process that was just waited for can be in it for a moment
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
