"""The log of a phase: appended by byte offset, read by byte offset or by line, compressed once its phase has ended.

An append names the offset where it belongs. The same append again is a no-op; one that would leave a gap is refused.
The log is its chunks' bytes, one after another. A chunk holds whole lines, with one exception: a line that terraform
has not ended yet, and that is too long to wait for, goes on in the next chunk, which then begins with the same line's
number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Integer, Row, ScalarSelect, Select, bindparam, func, insert, select, update
from sqlalchemy.orm import aliased

from extensions import db
from models import LogChunk, Phase
from services import clock
from services.storage.ansi import final_sgr
from services.storage.log_chunks import Chunk, only_lines, unpacked, without_beginning

#: A poll or a page reads about this much of a log at most, in bytes; a line may be longer.
READ_BYTES = 3 * 1024 * 1024

#: The raw log is read in pieces of about this size, each in a transaction of its own.
STREAM_BYTES = 2 * 1024 * 1024


class LogGap(Exception):
    """The offset is beyond the end of the log: something before it was never stored."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Consecutive chunks. ``end`` is the offset after the last one; ``size`` is the whole log's, in bytes."""

    chunks: list[Chunk]
    end: int
    size: int


@dataclass(frozen=True, slots=True)
class _End:
    """How a log ended after an append: the colour left open, and whether its last line is unfinished."""

    size: int
    lines: int
    sgr: str
    open: bool


_PHASE = bindparam("phase", type_=Integer)

#: phase id → its end as this process left it, so that an append need not read what came before.
_ends: dict[int, _End] = {}
_MOST_ENDS = 256


def append(phase_id: int, offset: int, data: bytes, *, tone: str | None = None) -> int:
    """Store whole lines at ``offset`` and return the new size; the caller commits.

    ``tone`` is given for Lockstep's own lines: "own", "error", and "ok" or "bad" with the padlock.
    Raises :class:`LogGap`.
    """
    return append_all(phase_id, [(offset, data)], tone=tone)


def append_all(
    phase_id: int, pieces: Sequence[tuple[int | None, bytes]], *, tone: str | None = None, **columns: object
) -> int:
    """As :func:`append`, several ``(offset, data)`` in three statements; ``columns`` of the phase are set with them.

    The offset None is the end: of what nobody else repeats.
    """
    phase = db.session.execute(
        select(Phase.log_size, Phase.log_lines, Phase.log_packed_at).where(Phase.id == phase_id).with_for_update()
    ).one()
    size, confirmed = phase.log_size, 0
    rows: list[dict[str, Any]] = []
    end: _End | None = None
    for wanted, data in pieces:
        offset = size if wanted is None else wanted
        if offset > size:
            raise LogGap(f"phase {phase_id}: offset {offset} beyond {size}")
        if offset < size or not data:
            # Stored before: a successor repeats what its predecessor could not confirm.
            confirmed = offset + len(data)
            continue
        end = end or _end(phase_id, phase.log_size, phase.log_lines)
        if tone is not None and end.open:
            end = _added(rows, end, phase_id, b"\n", None)  # no line of Lockstep's joins one of terraform's
        end = _added(rows, end, phase_id, data, tone)
        confirmed = size = end.size
    values: dict[str, Any] = dict(columns)
    if end is not None:
        db.session.execute(insert(LogChunk), rows)
        values |= {"log_size": end.size, "log_lines": end.lines}
        if phase.log_packed_at is not None:
            values["log_packed_at"] = None  # something to pack again
    if values:
        db.session.execute(update(Phase).where(Phase.id == phase_id).values(values))
    if end is not None:
        if len(_ends) >= _MOST_ENDS:
            _ends.clear()
        _ends[phase_id] = end
    return confirmed


def _added(rows: list[dict[str, Any]], end: _End, phase_id: int, data: bytes, tone: str | None) -> _End:
    """One more row after ``end``; answers the new end."""
    first = end.lines if end.open else end.lines + 1
    unfinished = not data.endswith(b"\n")
    lines = data.count(b"\n") + unfinished
    rows.append(
        {
            "phase_id": phase_id,
            "offset": end.size,
            "size": len(data),
            "first_line": first,
            "lines": lines,
            "sgr": end.sgr,
            "tone": tone,
            "at": clock.now(),
            "packed": False,
            "data": data,
        }
    )
    sgr = "" if tone is not None else final_sgr(data, end.sgr)
    return _End(end.size + len(data), first + lines - 1, sgr, unfinished)


def _end(phase_id: int, size: int, lines: int) -> _End:
    """How the log ends: remembered, or else found out from its last chunk."""
    known = _End(0, 0, "", False) if size == 0 else _ends.get(phase_id)
    if known is not None and (known.size, known.lines) == (size, lines):
        return known
    last = db.session.execute(_last(), {"phase": phase_id}).one_or_none()
    if last is None:
        return _End(size, lines, "", False)
    chunk = _chunk(last)
    sgr = "" if chunk.tone is not None else final_sgr(chunk.data, chunk.sgr)
    return _End(size, lines, sgr, not chunk.data.endswith(b"\n"))


def say(phase_id: int, *texts: str, tone: str = "own") -> int:
    """Append lines of Lockstep's own at the end; the caller commits. Returns the new size."""
    return append_all(phase_id, [(None, text.encode() + b"\n") for text in texts], tone=tone)


def read(phase_id: int, offset: int, limit: int = READ_BYTES) -> Excerpt:
    """What stands from ``offset`` on, about ``limit`` bytes at most. One indexed read."""
    size = db.session.scalar(select(Phase.log_size).where(Phase.id == phase_id)) or 0
    offset = min(max(offset, 0), size)
    chunks = since(phase_id, offset, limit) if offset < size else []
    return Excerpt(chunks, chunks[-1].end if chunks else offset, size)


def since(phase_id: int, offset: int, limit: int) -> list[Chunk]:
    """The bytes from ``offset`` on to the end of a chunk, about ``limit`` bytes at most. One statement.

    The offset may be anywhere, also inside of chunks that were packed into one since it was answered.
    """
    chunks: list[Chunk] = []
    total = 0
    for row in _rows(_since(), phase=phase_id, offset=offset):
        chunk = _from_offset(_chunk(row), offset)
        if not chunk.data:
            continue
        chunks.append(chunk)
        total += len(chunk.data)
        if total >= limit:
            break
    return chunks


def before(phase_id: int, line: int, count: int, limit: int = READ_BYTES) -> list[Chunk]:
    """The ``count`` lines before ``line``, fewer where they are more than about ``limit`` bytes. One statement."""
    if line <= 1 or count <= 0:
        return []
    first, last = max(line - count, 1), line - 1
    chunks: list[Chunk] = []
    total = 0
    for row in _rows(_before(), phase=phase_id, line=last):
        if row.first_line + row.lines <= first:
            break
        chunk = only_lines(_chunk(row), first, last)
        if chunk.data:
            chunks.append(chunk)
            total += len(chunk.data)
        if total >= limit:
            break
    return chunks[::-1]


def after(phase_id: int, line: int, count: int, limit: int = READ_BYTES) -> list[Chunk]:
    """The lines from ``line`` on, ``count`` at most and about ``limit`` bytes at most. One statement."""
    last = line + count - 1
    chunks: list[Chunk] = []
    total = 0
    for row in _rows(_after(), phase=phase_id, line=line - 1, last=last):
        if row.first_line + row.lines <= line:
            continue
        chunk = only_lines(_chunk(row), line, last)
        if chunk.data:
            chunks.append(chunk)
            total += len(chunk.data)
        if total >= limit:
            break
    return chunks


def tail(phase: Phase, lines: int) -> Excerpt:
    """The last ``lines`` lines, fewer where they are long."""
    size, total = phase.log_size, phase.log_lines
    chunks = before(phase.id, total + 1, lines)
    return Excerpt(chunks, chunks[-1].end if chunks else size, size)


def end(phase: Phase, count: int) -> bytes:
    """The last ``count`` bytes of the log, or all of it."""
    offset = max(phase.log_size - count, 0)
    return b"".join(chunk.data for chunk in since(phase.id, offset, 1 << 62)) if phase.log_size else b""


def raw(phase_id: int, size: int | None = None) -> Iterator[bytes]:
    """The log up to ``size`` bytes (all of it by default), in pieces."""
    if size is None:
        size = db.session.scalar(select(Phase.log_size).where(Phase.id == phase_id)) or 0
    offset = 0
    while offset < size:
        chunks = since(phase_id, offset, min(STREAM_BYTES, size - offset))
        if not chunks:
            return  # removed meanwhile
        offset = chunks[-1].end
        for chunk in chunks:
            yield chunk.data[: size - chunk.offset] if chunk.end > size else chunk.data


def stream(phase_id: int, size: int) -> Iterator[bytes]:
    """As :func:`raw`, with no transaction and no connection held while a piece is on its way to a slow reader.

    It ends the session's transaction again and again: for the answer to a request, after all else is done.
    """
    for piece in raw(phase_id, size):
        db.session.rollback()
        yield piece


# The statements are built once: that takes longer than to execute them.


@cache
def _chunks() -> Select[Any]:
    """The chunks of the log :phase."""
    earlier = aliased(LogChunk)
    #: The number after the last line of the chunk before: greater than first_line when that line goes on here.
    expected = (
        select(earlier.first_line + earlier.lines)
        .where(earlier.phase_id == _PHASE, earlier.offset < LogChunk.offset)
        .order_by(earlier.offset.desc())
        .limit(1)
        .scalar_subquery()
    )
    return select(
        LogChunk.offset, LogChunk.first_line, LogChunk.lines, LogChunk.sgr, LogChunk.tone,
        LogChunk.packed, LogChunk.data, expected.label("expected"),
    ).where(LogChunk.phase_id == _PHASE)  # fmt: skip


@cache
def _since() -> Select[Any]:
    """The chunk that holds the byte :offset, and those after it."""
    start = (
        select(LogChunk.offset)
        .where(LogChunk.phase_id == _PHASE, LogChunk.offset <= bindparam("offset"))
        .order_by(LogChunk.offset.desc())
        .limit(1)
        .scalar_subquery()
    )
    return _chunks().where(LogChunk.offset >= func.coalesce(start, 0)).order_by(LogChunk.offset)


@cache
def _before() -> Select[Any]:
    """The chunk in which the line :line begins, and those before it, from there back."""
    return _chunks().where(LogChunk.offset <= _at_line()).order_by(LogChunk.offset.desc())


@cache
def _after() -> Select[Any]:
    """The chunk in which the line :line begins, and those after it that begin with :last at most."""
    return (
        _chunks()
        .where(LogChunk.offset >= func.coalesce(_at_line(), 0), LogChunk.first_line <= bindparam("last"))
        .order_by(LogChunk.offset)
    )


@cache
def _last() -> Select[Any]:
    """The last chunk."""
    return _chunks().order_by(LogChunk.offset.desc()).limit(1)


def _at_line() -> ScalarSelect[Any]:
    """The offset of the last chunk that begins with :line or an earlier one."""
    return (
        select(LogChunk.offset)
        .where(LogChunk.phase_id == _PHASE, LogChunk.first_line <= bindparam("line"))
        .order_by(LogChunk.first_line.desc(), LogChunk.offset.desc())
        .limit(1)
        .scalar_subquery()
    )


def _rows(query: Select[Any], **values: int) -> Iterator[Row[Any]]:
    result = db.session.execute(query.execution_options(yield_per=16), values)
    try:
        yield from result
    finally:
        result.close()


def _chunk(row: Row[Any]) -> Chunk:
    continues = row.expected is not None and row.expected > row.first_line
    data = unpacked(row.data, row.packed)
    return Chunk(row.offset, row.first_line, row.sgr, row.tone, data, continues)


def _from_offset(chunk: Chunk, offset: int) -> Chunk:
    cut = offset - chunk.offset
    return chunk if cut <= 0 else without_beginning(chunk, cut)
