"""The log of a phase: appended by byte offset, read by byte offset.

An append names the offset where it belongs. The same append again is a no-op; one that would leave a gap is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import func, select, update

from extensions import db
from models import LogChunk, Phase
from services import clock
from services.storage.ansi import final_sgr

#: A poll answers at most this much, so that a page that was away catches up in steps.
READ_BYTES = 256 * 1024


class LogGap(Exception):
    """The offset is beyond the end of the log: something before it was never stored."""


@dataclass(frozen=True)
class Excerpt:
    """Consecutive chunks. ``end`` is the offset after the last one; ``size`` is the whole log's, in bytes."""

    chunks: list[LogChunk]
    end: int
    size: int


def append(phase_id: int, offset: int, data: bytes, *, tone: str | None = None) -> int:
    """Store whole lines at ``offset`` and return the new size; the caller commits.

    ``tone`` is given for Lockstep's own lines: "own", "error", and "ok" or "bad" with the padlock.
    Raises :class:`LogGap`.
    """
    if not data:
        return offset
    phase = db.session.execute(
        select(Phase.log_size, Phase.log_lines).where(Phase.id == phase_id).with_for_update()
    ).one()
    if offset > phase.log_size:
        raise LogGap(f"phase {phase_id}: offset {offset} beyond {phase.log_size}")
    if offset < phase.log_size:
        return offset + len(data)  # stored before: a successor repeats what its predecessor could not confirm
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    db.session.add(
        LogChunk(
            phase_id=phase_id,
            offset=offset,
            size=len(data),
            first_line=phase.log_lines + 1,
            lines=lines,
            sgr=_open_colour(phase_id),
            tone=tone,
            at=clock.now(),
            data=data,
        )
    )
    end = offset + len(data)
    db.session.execute(
        update(Phase).where(Phase.id == phase_id).values(log_size=end, log_lines=phase.log_lines + lines)
    )
    db.session.flush()
    return end


def say(phase: Phase, text: str, tone: str = "own") -> int:
    """Append a line of Lockstep's own at the end; the caller commits. Returns the new size."""
    size = db.session.scalar(select(Phase.log_size).where(Phase.id == phase.id)) or 0
    return append(phase.id, size, text.encode() + b"\n", tone=tone)


def read(phase_id: int, offset: int, limit: int = READ_BYTES) -> Excerpt:
    """Chunks from ``offset`` on, at most about ``limit`` bytes. One indexed read.

    ``offset`` is one that an earlier read answered; any other is moved back to the start of its chunk.
    """
    size = db.session.scalar(select(Phase.log_size).where(Phase.id == phase_id)) or 0
    offset = min(max(offset, 0), size)
    start = (
        select(func.max(LogChunk.offset)).where(LogChunk.phase_id == phase_id, LogChunk.offset <= offset)
    ).scalar_subquery()
    query = (
        select(LogChunk)
        .where(LogChunk.phase_id == phase_id, LogChunk.offset >= func.coalesce(start, 0))
        .order_by(LogChunk.offset)
        .execution_options(yield_per=16)
    )
    chunks: list[LogChunk] = []
    total = 0
    with closing(db.session.scalars(query)) as rows:  # PostgreSQL keeps a cursor open for what was not fetched
        for chunk in rows:
            if chunk.offset + chunk.size <= offset:
                continue
            chunks.append(chunk)
            total += chunk.size
            if total >= limit:
                break
    return Excerpt(chunks, chunks[-1].offset + chunks[-1].size if chunks else offset, size)


def tail(phase: Phase, lines: int) -> Excerpt:
    """The chunks that hold the last ``lines`` lines."""
    first = max(phase.log_lines - lines + 1, 1)
    start = db.session.scalar(
        select(func.max(LogChunk.offset)).where(LogChunk.phase_id == phase.id, LogChunk.first_line <= first)
    )
    return read(phase.id, start or 0, limit=1 << 62)


def end(phase: Phase, count: int) -> bytes:
    """The last ``count`` bytes of the log, or a little more."""
    return b"".join(chunk.data for chunk in read(phase.id, max(phase.log_size - count, 0), limit=1 << 62).chunks)


def raw(phase_id: int) -> Iterator[bytes]:
    """The whole log, in pieces. An output that ends without a line break gets one, so that no line joins it."""
    query = select(LogChunk.data).where(LogChunk.phase_id == phase_id).order_by(LogChunk.offset)
    ended = True
    for data in db.session.scalars(query.execution_options(yield_per=16)):
        yield data if ended else b"\n" + data
        ended = data.endswith(b"\n")


def _open_colour(phase_id: int) -> str:
    """The colour state at the end of the log."""
    last = db.session.scalar(
        select(LogChunk).where(LogChunk.phase_id == phase_id).order_by(LogChunk.offset.desc()).limit(1)
    )
    return final_sgr(last.data, last.sgr) if last is not None and last.tone is None else ""
