"""Pieces of a log as they are read: consecutive bytes, and cutting them at lines."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from services.storage.ansi import final_sgr


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive bytes of a log, unpacked. ``continues``: they begin inside of the line ``first_line``."""

    offset: int
    first_line: int
    sgr: str
    tone: str | None
    data: bytes
    continues: bool = False

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)

    @property
    def last_line(self) -> int:
        """The number of the last line that begins in the chunk, or goes on in it."""
        return self.first_line + self.data.count(b"\n") - self.data.endswith(b"\n")


def unpacked(data: bytes, packed: bool) -> bytes:
    """The bytes of the log that a row holds."""
    return zlib.decompress(data) if packed else data


def without_beginning(chunk: Chunk, cut: int) -> Chunk:
    """The chunk from its byte ``cut`` on."""
    gone = chunk.data[:cut]
    return replace(
        chunk,
        offset=chunk.offset + len(gone),
        first_line=chunk.first_line + gone.count(b"\n"),
        sgr=final_sgr(gone, chunk.sgr) if chunk.tone is None else "",
        data=chunk.data[cut:],
        continues=not gone.endswith(b"\n"),
    )


def only_lines(chunk: Chunk, first: int, last: int) -> Chunk:
    """The part of the chunk with these lines."""
    skip = first - chunk.first_line
    if skip > 0:
        chunk = without_beginning(chunk, _lines_long(chunk.data, skip))
    keep = last - chunk.first_line + 1
    return replace(chunk, data=chunk.data[: _lines_long(chunk.data, keep)])


def _lines_long(data: bytes, count: int) -> int:
    """How many bytes the first ``count`` lines are."""
    parts = data.split(b"\n", count)
    return len(data) - len(parts[-1]) if len(parts) > count else len(data)
