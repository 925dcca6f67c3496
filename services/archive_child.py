"""Archives are read in a child with limits, so that one that finds a fault in a parser hurts no server and no worker.

The child has no environment and inherits nothing; it may use the memory, time and file size that
services/archive_reader.py gives it. What an archive may hold is checked there, by services/archives.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from services.archives import ArchiveInfo, ArchiveRefused, Limits, all_or_nothing

READER = Path(__file__).resolve().parent / "archive_reader.py"
#: Seconds of processor time: reading takes a few for 250 MiB. Waiting for a busy machine may take more.
SECONDS, SECONDS_A_GIB, PATIENCE = 20, 120, 4

_UNREADABLE = "Reading the archive takes more time or memory than is allowed. Leave out what Terraform does not read."


def inspect(path: Path, limits: Limits) -> ArchiveInfo:
    """As :func:`services.archives.inspect`."""
    return _read("inspect", path, Path(), limits)


def extract(path: Path, destination: Path, limits: Limits) -> ArchiveInfo:
    """As :func:`services.archives.extract`; a child that had to be ended leaves nothing either."""
    with all_or_nothing(destination):
        return _read("extract", path, destination.resolve(), limits)


def _read(action: str, path: Path, destination: Path, limits: Limits) -> ArchiveInfo:
    seconds = SECONDS + SECONDS_A_GIB * limits.unpacked_bytes // (1 << 30)
    numbers = (limits.packed_bytes, limits.unpacked_bytes, limits.files, seconds)
    try:
        told = _ask([action, str(path.resolve()), str(destination), *map(str, numbers)], seconds * PATIENCE)
    except (ValueError, subprocess.TimeoutExpired):
        raise ArchiveRefused(_UNREADABLE) from None
    if "refused" in told:
        raise ArchiveRefused(told["refused"])
    if "errno" in told:
        raise OSError(told["errno"], told["text"])
    return ArchiveInfo(told["kind"], told["files"], told["bytes"], tuple(told["where"]))


def _ask(arguments: list[str], patience: int) -> dict[str, Any]:
    """The child's answer. Raises ValueError for none, TimeoutExpired after so many seconds; the child is gone then."""
    done = subprocess.run(  # noqa: S603  (this Python, a program of ours, paths of ours)
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(READER), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        timeout=patience,
        start_new_session=True,  # a Ctrl-C at the terminal is not for it
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
