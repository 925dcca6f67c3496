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


class Reader:
    """The child. It loads while its starter does something else, and reads one archive.

    A context manager: at its end no child is left.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  (this Python, a program of ours)
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(READER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # a Ctrl-C at the terminal is not for it
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def inspect(self, path: Path, limits: Limits) -> ArchiveInfo:
        """As :func:`services.archives.inspect`."""
        return self._read("inspect", path, Path(), limits)

    def extract(self, path: Path, destination: Path, limits: Limits) -> ArchiveInfo:
        """As :func:`services.archives.extract`; a child that had to be ended leaves nothing either."""
        with all_or_nothing(destination):
            return self._read("extract", path, destination.resolve(), limits)

    def _read(self, action: str, path: Path, destination: Path, limits: Limits) -> ArchiveInfo:
        seconds = SECONDS + SECONDS_A_GIB * limits.unpacked_bytes // (1 << 30)
        numbers = (limits.packed_bytes, limits.unpacked_bytes, limits.files, seconds)
        order = json.dumps([action, str(path.resolve()), str(destination), *numbers]).encode()
        try:
            told = self._answer(order, seconds * PATIENCE)
        except (ValueError, subprocess.TimeoutExpired):
            raise ArchiveRefused(_UNREADABLE) from None
        if "refused" in told:
            raise ArchiveRefused(told["refused"])
        if "errno" in told:
            raise OSError(told["errno"], told["text"])
        return ArchiveInfo(told["kind"], told["files"], told["bytes"], tuple(told["where"]))

    def _answer(self, order: bytes, patience: int) -> dict[str, Any]:
        """Raises ValueError for none, TimeoutExpired after so many seconds. The child is gone then."""
        try:
            output, _ = self._process.communicate(order, patience)
        finally:
            self._process.kill()
        answer: dict[str, Any] = json.loads(output)
        return answer


def inspect(path: Path, limits: Limits) -> ArchiveInfo:
    """As :func:`services.archives.inspect`."""
    with Reader() as reader:
        return reader.inspect(path, limits)
