"""Lines of a log as a page shows them, as many as fit, and the gaps between them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from services.storage.ansi import render_lines
from services.storage.log_chunks import Chunk, only_lines, without_beginning

#: Lines that are rendered at once.
MOST_LINES = 2_000


@dataclass(frozen=True)
class Lines:
    """Consecutive lines as list items; ``end`` is the byte offset after the last of them."""

    first: int
    count: int
    html: Markup
    end: int

    @property
    def last(self) -> int:
        return self.first + self.count - 1


@dataclass(frozen=True)
class Gap:
    """Lines that are not shown. ``below`` says whether lines stand above it, so that it can be filled from there."""

    first: int
    last: int

    @property
    def below(self) -> bool:
        return self.first > 1

    @property
    def words(self) -> str:
        if self.first == self.last:
            return f"Line {self.first:,} is not shown."
        return f"Lines {self.first:,} to {self.last:,} are not shown."


Part = Lines | Gap


def gap(first: int, last: int) -> list[Part]:
    return [Gap(first, last)] if first <= last else []


def to_end(chunks: list[Chunk], anchor: str, size: int, most: int = MOST_LINES) -> Lines | None:
    """The last lines of these, ``most`` at most and as many as fit."""
    first, lines = _rendered(_from_last(chunks, most), anchor)
    if not lines:
        return None
    start, left = len(lines), size
    while start:
        left -= len(lines[start - 1])
        if left < 0 and start < len(lines):
            break
        start -= 1
    shown = lines[start:]
    return Lines(first + start, len(shown), Markup("".join(shown)), chunks[-1].end)  # noqa: S704  (of render_lines)


def from_start(chunks: list[Chunk], anchor: str, size: int) -> Lines | None:
    """The first lines of these, as many as fit."""
    first, lines = _rendered(chunks, anchor)
    if not lines:
        return None
    end = 0
    while end < len(lines) and (end == 0 or size >= len(lines[end])):
        size -= len(lines[end])
        end += 1
    shown = lines[:end]
    return Lines(first, len(shown), Markup("".join(shown)), chunks[-1].end)  # noqa: S704  (of render_lines)


def _from_last(chunks: list[Chunk], most: int) -> list[Chunk]:
    """The same from the last ``most`` lines on: chunks are bounded in bytes, and a byte can be a line."""
    if not chunks:
        return []
    first = chunks[-1].last_line - most + 1
    kept = [chunk for chunk in chunks if chunk.last_line >= first]
    return [only_lines(kept[0], first, kept[0].last_line), *kept[1:]]


def _rendered(chunks: list[Chunk], anchor: str) -> tuple[int, list[str]]:
    """The number of the first line, and the lines. A line that goes on in the next chunk is one line."""
    lines: list[str] = []
    index = 0
    while index < len(chunks):
        chunk = chunks[index]
        data = [chunk.data]
        index += 1
        while index < len(chunks) and chunks[index].continues:
            data.append(chunks[index].data)
            index += 1
        own = chunk.tone is not None
        found = render_lines(
            b"".join(data), chunk.first_line, chunk.sgr, anchor, own=own, tone=chunk.tone, cut=chunk.continues
        )
        lines += found.lines
    return (chunks[0].first_line if chunks else 0), lines


def after_line(chunk: Chunk) -> Chunk:
    """Without the rest of the line that it continues."""
    rest = chunk.data.find(b"\n") + 1 or len(chunk.data)
    return without_beginning(chunk, rest)
