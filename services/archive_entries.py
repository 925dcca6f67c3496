"""What the readers of archives and `services.archives` share: limits, entries, and refusals.

None of these modules imports dataclasses: that takes a fifth of the time in which the child that reads is there
(services/archive_reader.py), and a run waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Literal, NamedTuple

MIB = 1024 * 1024
CHUNK = 64 * 1024

DAMAGED = "The archive is damaged or cut short. Make it again and upload it once more."

ArchiveKind = Literal["tar.gz", "zip"]


class ArchiveRefused(Exception):
    """An archive cannot be taken; `reason` is a plain sentence for the person who uploaded it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Limits(NamedTuple):
    """Most bytes of the upload, most bytes and most entries of what comes out of it."""

    packed_bytes: int = 50 * MIB
    unpacked_bytes: int = 250 * MIB
    files: int = 20_000


class EntryKind(Enum):
    """What an entry is. The values complete the sentence "The archive contains …"."""

    FILE = "a file"
    DIRECTORY = "a directory"
    LINK = "a link"
    SPARSE = "a sparse file"
    SPECIAL = "something that is neither a file nor a directory"


class Entry(NamedTuple):
    """One entry: its name as written in the archive, and its bytes (to be read before the next entry)."""

    name: str
    kind: EntryKind
    executable: bool
    chunks: Iterator[bytes]


def too_large(limits: Limits) -> ArchiveRefused:
    """The refusal for an archive that unpacks to more than is allowed."""
    return ArchiveRefused(
        f"The archive unpacks to more than {megabytes(limits.unpacked_bytes)}."
        " Leave out what Terraform does not read, for example .terraform folders."
    )


def too_many(limits: Limits) -> ArchiveRefused:
    """The refusal for an archive with more entries than are allowed."""
    return ArchiveRefused(
        f"The archive has more than {limits.files:,} entries. Leave out what Terraform does not read."
    )


def megabytes(size: int) -> str:
    """A size for a sentence."""
    return f"{size // MIB} MB" if size >= MIB else f"{size:,} bytes"
