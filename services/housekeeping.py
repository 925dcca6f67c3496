"""Logs of ended phases: compressed, and removed where the operator limits how long they are kept.

Every step is a transaction of its own that checks what it replaces, so that it may run twice at once and be killed
anywhere. Rows of a log are never changed otherwise, only added at its end, so a step that finds its rows gone has been
overtaken and leaves everything as it is. Phases without ``log_packed_at`` are those that there is something to do for.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterator
from typing import Any, cast

from flask import current_app
from sqlalchemy import CursorResult, Delete, Row, Update, and_, delete, exists, func, insert, or_, select, update

from config import Config
from extensions import db
from models import Environment, LogChunk, Phase, PhaseStatus, Run
from policy.lifecycle import FINAL
from services import audit, clock
from services.compare_and_set import won
from services.storage.log_chunks import unpacked

log = logging.getLogger(__name__)

#: Seconds of work for one call, and between two looks for logs that are old enough to go.
BUDGET, RETENTION_EVERY = 2.0, 600.0

#: A packed chunk holds at least the first, where there is so much in a row, and at most the second, in bytes of log.
LEAST, MOST = 256 * 1024, 512 * 1024

#: Rows that one transaction removes, and phases or runs that one look finds.
STEP, LOOK = 200, 100

_ENDED = (PhaseStatus.FINISHED, PhaseStatus.FAILED, PhaseStatus.CANCELED)


class _Memory:
    """What this process found out: below which phase everything is done, and when it looked for old logs."""

    def __init__(self) -> None:
        self.floor = 0
        self.looked = -RETENTION_EVERY


_memory = _Memory()


def tidy(seconds: float = BUDGET) -> None:
    """Do about ``seconds`` of work, the rest next time; commits. For idle workers, again and again."""
    until = time.monotonic() + seconds
    config: Config = current_app.config["LOCKSTEP"]
    if time.monotonic() - _memory.looked >= RETENTION_EVERY and not _remove_old(config, until):
        _memory.looked = time.monotonic()
    while time.monotonic() < until:
        phases = _unfinished()
        for phase in phases:
            if not _finish(phase, until):
                return
        if len(phases) < LOOK:
            return


def _unfinished() -> list[Row[Any]]:
    """Phases that ended and whose log is not packed, or not gone though it was removed."""
    floor = db.session.scalar(
        select(func.min(Phase.id)).where(Phase.id >= _memory.floor, Phase.log_packed_at.is_(None))
    )
    if floor is None:
        floor = db.session.scalar(select(func.max(Phase.id))) or 0
    _memory.floor = max(_memory.floor, floor)
    ended = or_(Phase.status.in_(_ENDED), Run.status.in_(FINAL))
    query = (
        select(Phase.id, Phase.log_size, Phase.log_removed_at)
        .join(Run, Run.id == Phase.run_id)
        .where(Phase.id >= floor, Phase.log_packed_at.is_(None), ended)
        .order_by(Phase.id)
        .limit(LOOK)
    )
    found: list[Row[Any]] = [*db.session.execute(query)]
    db.session.rollback()
    return found


def _finish(phase: Row[Any], until: float) -> bool:
    """Bring one phase to its end; False when time ran out before."""
    if phase.log_removed_at is not None:
        if not _drop(phase.id, until):
            return False
    else:
        for group in _groups(phase.id):
            if time.monotonic() >= until:
                return False
            _pack(phase.id, group)
    done = update(Phase).where(Phase.id == phase.id, Phase.log_size == phase.log_size, Phase.log_packed_at.is_(None))
    won(done.values(log_packed_at=clock.now()))
    db.session.commit()
    return True


def _groups(phase_id: int) -> Iterator[list[Row[Any]]]:
    """Rows in a row that become one. A row that is packed and large enough, or Lockstep's own, stays as it is."""
    query = select(
        LogChunk.id, LogChunk.offset, LogChunk.size, LogChunk.first_line, LogChunk.lines, LogChunk.sgr,
        LogChunk.tone, LogChunk.packed, LogChunk.at,
    ).where(LogChunk.phase_id == phase_id)  # fmt: skip
    offset, group = -1, list[Row[Any]]()
    while True:
        more = query.where(LogChunk.offset > offset).order_by(LogChunk.offset).limit(2000)
        rows: list[Row[Any]] = [*db.session.execute(more)]
        db.session.rollback()
        for row in rows:
            size = sum(member.size for member in group)
            if group and (size >= LEAST or size + row.size > MOST or row.tone is not None):
                yield from _worthwhile(group)
                group = []
            if row.tone is None:
                group.append(row)
        if not rows:
            yield from _worthwhile(group)
            return
        offset = rows[-1].offset


def _worthwhile(group: list[Row[Any]]) -> Iterator[list[Row[Any]]]:
    if len(group) > 1 or (group and not group[0].packed):
        yield group


def _pack(phase_id: int, group: list[Row[Any]]) -> None:
    """Put one compressed row in the place of these; commits."""
    ids = [row.id for row in group]
    query = select(LogChunk.data, LogChunk.packed).where(LogChunk.id.in_(ids)).order_by(LogChunk.offset)
    stored = list(db.session.execute(query))
    db.session.rollback()  # no lock is held while it is compressed
    data = b"".join(unpacked(row.data, row.packed) for row in stored)
    first, last = group[0], group[-1]
    if len(stored) != len(ids) or len(data) != last.offset + last.size - first.offset:
        return  # somebody else was faster
    packed = zlib.compress(data, 6)
    if _changed(delete(LogChunk).where(LogChunk.id.in_(ids))) != len(ids):
        db.session.rollback()
        return
    db.session.execute(
        insert(LogChunk).values(
            phase_id=phase_id,
            offset=first.offset,
            size=len(data),
            first_line=first.first_line,
            lines=last.first_line + last.lines - first.first_line,
            sgr=first.sgr,
            tone=None,
            at=first.at,
            packed=True,
            data=packed,
        )
    )
    db.session.commit()


def _remove_old(config: Config, until: float) -> bool:
    """Mark logs that are kept no longer, a run at a time; whether there may be more."""
    found = list(_too_old(config))
    for run_id in found:
        if time.monotonic() >= until:
            return True
        _mark(run_id)
    return len(found) == LOOK


def _too_old(config: Config) -> list[int]:
    limits = []
    if config.log_keep is not None:
        limits.append(Run.finished_at < clock.now() - config.log_keep)
    if config.log_keep_runs:
        limits.append(Run.number <= Environment.run_counter - config.log_keep_runs)
    if not limits:
        return []
    kept = exists().where(and_(Phase.run_id == Run.id, Phase.log_removed_at.is_(None), Phase.log_size > 0))
    query = select(Run.id).join(Environment, Environment.id == Run.environment_id)
    query = query.where(Run.status.in_(FINAL), or_(*limits), kept).order_by(Run.id).limit(LOOK)
    ids = list(db.session.scalars(query))
    db.session.rollback()
    return ids


def _mark(run_id: int) -> None:
    """Say that the logs of a run are gone; commits. From then on nobody reads them, and their rows are removed."""
    run = db.session.get(Run, run_id)
    if run is None:
        return
    marked = update(Phase).where(Phase.run_id == run_id, Phase.log_removed_at.is_(None), Phase.log_size > 0)
    if _changed(marked.values(log_removed_at=clock.now(), log_packed_at=None)) == 0:
        db.session.rollback()
        return
    lines = sum(phase.log_lines for phase in run.phases)
    audit.record("run.log_removed", None, run=run, number=run.number, lines=lines)
    lowest = min(phase.id for phase in run.phases)
    db.session.commit()
    _memory.floor = min(_memory.floor, lowest)


def _drop(phase_id: int, until: float) -> bool:
    """Remove the rows of a log in small steps; False when time ran out before."""
    while time.monotonic() < until:
        some = select(LogChunk.id).where(LogChunk.phase_id == phase_id).limit(STEP)
        ids = list(db.session.scalars(some))
        if ids:
            _changed(delete(LogChunk).where(LogChunk.id.in_(ids)))
        db.session.commit()
        if len(ids) < STEP:
            return True
    return False


def _changed(statement: Delete | Update) -> int:
    return cast("CursorResult[None]", db.session.execute(statement)).rowcount
