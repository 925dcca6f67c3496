"""A disk that is full while terraform runs: its output is lost from then on, so the log says so, once a phase.

Nothing is done to terraform: it goes on without its output, and ends as it ends. An apply has some room put by for its
state, which terraform writes anew after each resource and loses where it finds none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from extensions import db
from models import LogChunk

log = logging.getLogger(__name__)

SAID = "The disk is full: from here on the output of terraform may be missing here. The run goes on."

#: Bytes that the file system of the working directory has to have free.
LEAST = 16 * 1024

#: Bytes put by for an apply, beside three times the state that it begins with: for that, its backup, and what is new.
RESERVE = 1 << 20

_RESERVED = "reserve"


def reserve(folder: Path, state: int) -> None:
    """Put room by in a working directory; ``state`` is its state's size in bytes. Raises OSError for a full disk."""
    with open(folder / _RESERVED, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, RESERVE + 3 * state)


class DiskWatch:
    """Looks at the file system of a spool file. ``say`` puts a line with a tone into the log of the phase; it commits.

    What was said stands in the log itself, so a worker that takes over does not say it again.
    """

    def __init__(self, phase_id: int, spool: Path, say: Callable[[str, str], None]) -> None:
        self._phase_id = phase_id
        self._folder = spool.parent
        self._say = say
        self._full = self._said = False

    def make_room(self) -> None:
        """Give up what was put by when the disk is full."""
        if not self._full and free(self._folder) < LEAST:
            self._full = True
            (self._folder / _RESERVED).unlink(missing_ok=True)

    def look(self) -> None:
        """Say it when the disk is full; commits. Raises what the database raises, and may be called again then."""
        self.make_room()
        if self._said or not self._full:
            return
        if not self._stands():
            log.warning("phase %s: the disk of its working directory is full", self._phase_id)
            self._say(SAID, "error")
        self._said = self._stands()

    def _stands(self) -> bool:
        """Whether the log says so already."""
        line = (LogChunk.phase_id == self._phase_id, LogChunk.tone == "error", LogChunk.data == f"{SAID}\n".encode())
        found = db.session.scalar(select(LogChunk.id).where(*line).limit(1))
        db.session.rollback()
        return found is not None


def free(folder: Path) -> int:
    """Bytes that may still be written there; without the folder, no limit."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return found.f_bavail * found.f_frsize
