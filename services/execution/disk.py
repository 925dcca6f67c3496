"""A disk that is full while terraform runs: its output is lost from then on, so the log says so, once a phase.

Nothing is done to terraform: it goes on without its output, and ends as it ends.
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


class DiskWatch:
    """Looks at the file system of a spool file. ``say`` puts a line with a tone into the log of the phase; it commits.

    What was said stands in the log itself, so a worker that takes over does not say it again.
    """

    def __init__(self, phase_id: int, spool: Path, say: Callable[[str, str], None]) -> None:
        self._phase_id = phase_id
        self._folder = spool.parent
        self._say = say
        self._said = False

    def look(self) -> None:
        """Say it when the disk is full; commits. Raises what the database raises, and may be called again then."""
        if self._said or free(self._folder) >= LEAST:
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
