"""The log of a phase on a page: its end, what lies around a line, the lines before, and what a poll brings.

A page holds pieces of a log, each of consecutive lines, and between them gaps that say which lines are not shown and
bring them. Whatever is asked for is bounded in lines and in bytes of markup, so that the longest log with the longest
lines makes a page like any other.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Response, request, stream_with_context
from markupsafe import Markup

from blueprints.run_steps import address, length
from models import Phase, PhaseStatus, Run
from policy.mfa import PhaseKind
from services.pulse import Log
from services.storage import logs
from services.storage.ansi import render_lines

#: Lines of the log that a page begins with, those of one that is closed at first, and those that a gap brings at once.
TAIL_LINES, CLOSED_LINES, STEP_LINES = 2_000, 200, 2_000

#: The same in bytes of markup; 2,000 lines of 50 bytes are about 250 KB.
TAIL_BYTES, CLOSED_BYTES, STEP_BYTES = 268_000, 12_000, 268_000

#: Lines before and from a line that was asked for, with as much of the log's end, and bytes of markup for each.
WINDOW_BEFORE, WINDOW_FROM, WINDOW_BYTES = 300, 500, 80_000

#: Seconds for which viewers of one log share what was rendered.
SHARED_SECONDS = 1.0

_ENDED = (PhaseStatus.FINISHED, PhaseStatus.FAILED, PhaseStatus.CANCELED)
_LINE = re.compile(r"(plan|apply)-([1-9][0-9]{0,9})")


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


@dataclass(frozen=True)
class LogView:
    """``parts`` in order, ``end`` the offset after the last line, ``live`` whether more can come."""

    run: Run
    phase: Phase
    parts: list[Part]
    end: int
    live: bool
    open: bool

    @property
    def kind(self) -> str:
        return self.phase.kind.value

    @property
    def at(self) -> dict[str, Any]:
        """What the addresses of this run are made of."""
        return address(self.run)

    @property
    def lasted(self) -> timedelta | None:
        return length(self.phase)

    @property
    def removed(self) -> datetime | None:
        return self.phase.log_removed_at


@dataclass(frozen=True)
class News:
    """What a poll brings of one log: perhaps a gap, and the lines up to the offset ``end``."""

    parts: list[Part]
    end: int


@dataclass(frozen=True)
class LogNews:
    """The news of a log of the page, with what its heading says."""

    run: Run
    phase: Phase
    news: News

    @property
    def kind(self) -> str:
        return self.phase.kind.value

    @property
    def live(self) -> bool:
        return _live(self.run, self.phase)

    @property
    def lasted(self) -> timedelta | None:
        return length(self.phase)


def has_log(run: Run, kind: PhaseKind) -> bool:
    """Whether the page shows a log of this phase."""
    phase = run.phase(kind)
    return phase.log_size > 0 or phase.status is PhaseStatus.RUNNING


def asked_line(text: str) -> tuple[PhaseKind, int] | None:
    """The log and the number in "plan-123"; None for anything else."""
    found = _LINE.fullmatch(text)
    return (PhaseKind(found[1]), int(found[2])) if found else None


def page(run: Run, kind: PhaseKind, line: int | None = None) -> LogView:
    """The end of the log and, when it is not in it, what lies around ``line``."""
    phase = run.phase(kind)
    last = PhaseKind.APPLY if has_log(run, PhaseKind.APPLY) else PhaseKind.PLAN
    shown = line is not None or (kind is last and (run.status.final or phase.status is not PhaseStatus.FINISHED))
    parts: list[Part] = []
    end = phase.log_size
    if phase.log_removed_at is None:
        parts = _end_and_window(phase, kind.value, line, shown)
        end = parts[-1].end if parts and isinstance(parts[-1], Lines) else end
    return LogView(run=run, phase=phase, parts=parts, end=end, live=_live(run, phase), open=shown)


def log_news(run: Run, kind: PhaseKind, offset: int) -> LogNews:
    """What a page that has the log up to ``offset`` lacks."""
    phase = run.phase(kind)
    removed = phase.log_removed_at is not None
    log = Log(phase.id, kind, phase.log_size, phase.log_lines, removed, run.created_at)
    return LogNews(run, phase, news(log, offset))


def download(phase: Phase, name: str) -> Response:
    """The whole log as it is now, as a file. A finished one has an ETag, so that a script need not get it twice."""
    if phase.log_removed_at is not None:
        said = f"The log was removed on {phase.log_removed_at:%Y-%m-%d %H:%M} UTC, as the settings of Lockstep ask.\n"
        return Response(said, 410, content_type="text/plain; charset=utf-8")
    size = phase.log_size
    response = Response(stream_with_context(logs.stream(phase.id, size)), content_type="text/plain; charset=utf-8")
    response.content_length = size
    response.headers.set("Content-Disposition", "attachment", filename=name)
    if phase.status in _ENDED:
        response.set_etag(f"{phase.id}-{size}")
        response.make_conditional(request)
    return response


def _live(run: Run, phase: Phase) -> bool:
    return phase.status not in _ENDED and not run.status.final


def fill(phase: Phase, first: int, last: int, *, from_above: bool = False, count: int = STEP_LINES) -> list[Part]:
    """Lines of the gap from ``first`` to ``last``, and what is left of it: those next to its end, or to its start."""
    first, last = max(first, 1), min(last, phase.log_lines)
    if first > last or phase.log_removed_at is not None:
        return []
    anchor = phase.kind.value
    count = min(count, last - first + 1)
    if from_above:
        found = _from_start(logs.after(phase.id, first, count), anchor, STEP_BYTES)
        return [found, *_gap(found.last + 1, last)] if found else []
    found = _to_end(logs.before(phase.id, last + 1, count), anchor, STEP_BYTES)
    return [*_gap(first, found.first - 1), found] if found else list(_gap(first, last))


def news(log: Log, offset: int) -> News:
    """What stands after ``offset`` of a log; shared between viewers for a moment.

    The bytes between two offsets never change, so what was rendered for one viewer is right for another.
    """
    offset = min(max(offset, 0), log.size)
    if offset == log.size or log.removed:
        return News([], log.size)
    return _shared.get((log.phase_id, log.born, offset, log.size), lambda: _news(log, offset))


def _news(log: Log, offset: int) -> News:
    anchor = log.kind.value
    whole = log.size - offset <= logs.READ_BYTES
    chunks = logs.since(log.phase_id, offset, logs.READ_BYTES if whole else 1)
    end = chunks[-1].end if chunks else log.size
    # The page has the beginning of a line that goes on, folded; the raw log has the rest.
    while chunks and chunks[0].continues:
        rest = _after_line(chunks[0])
        chunks[:1] = [rest] if rest.data else []
    if not chunks:
        return News([], end if whole else log.size)
    next_line = chunks[0].first_line
    if whole and (found := _to_end(chunks, anchor, TAIL_BYTES, TAIL_LINES)):
        return News([*_gap(next_line, found.first - 1), found], found.end)
    if whole:
        return News([], end)
    found = _to_end(logs.before(log.phase_id, log.lines + 1, TAIL_LINES), anchor, TAIL_BYTES)
    if found is None or found.first < next_line:  # one line that is longer than all of this
        return News([], log.size)
    return News([*_gap(next_line, found.first - 1), found], max(found.end, log.size))


def _end_and_window(phase: Phase, anchor: str, line: int | None, shown: bool) -> list[Part]:
    window = line is not None and line < phase.log_lines - TAIL_LINES // 2
    lines, size = (TAIL_LINES, TAIL_BYTES) if shown else (CLOSED_LINES, CLOSED_BYTES)
    if window:
        lines, size = WINDOW_FROM, WINDOW_BYTES
    limit = logs.READ_BYTES if shown else logs.READ_BYTES // 4
    tail = _to_end(logs.before(phase.id, phase.log_lines + 1, lines, limit), anchor, size)
    if tail is None:
        return []
    if line is None or line >= tail.first:
        return [*_gap(1, tail.first - 1), tail]
    line = max(line, 1)
    above = _to_end(logs.before(phase.id, line, WINDOW_BEFORE), anchor, WINDOW_BYTES)
    count = min(WINDOW_FROM, tail.first - line)
    around = _from_start(logs.after(phase.id, line, count), anchor, WINDOW_BYTES)
    begins = above.first if above else line
    ends = around.last if around else line - 1
    parts = [*_gap(1, begins - 1), above, around, *_gap(ends + 1, tail.first - 1), tail]
    return [part for part in parts if part is not None]


def _gap(first: int, last: int) -> list[Part]:
    return [Gap(first, last)] if first <= last else []


def _to_end(chunks: list[logs.Chunk], anchor: str, size: int, most: int = STEP_LINES) -> Lines | None:
    """The last lines of these, as many as fit."""
    first, lines = _rendered(chunks, anchor)
    if not lines:
        return None
    start, left = len(lines), size
    while start and len(lines) - start < most:
        left -= len(lines[start - 1])
        if left < 0 and start < len(lines):
            break
        start -= 1
    shown = lines[start:]
    return Lines(first + start, len(shown), Markup("".join(shown)), chunks[-1].end)  # noqa: S704  (of render_lines)


def _from_start(chunks: list[logs.Chunk], anchor: str, size: int) -> Lines | None:
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


def _rendered(chunks: list[logs.Chunk], anchor: str) -> tuple[int, list[str]]:
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


def _after_line(chunk: logs.Chunk) -> logs.Chunk:
    """Without the rest of the line that it continues."""
    rest = chunk.data.find(b"\n") + 1 or len(chunk.data)
    return logs.without_beginning(chunk, rest)


class _Shared:
    """Rendered pieces of logs, kept for a second; nothing in it belongs to a person."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[object, tuple[float, News]] = {}
        self._lock = threading.Lock()

    def get(self, key: object, make: Any) -> News:
        """What is kept under ``key``, or else what ``make`` answers now."""
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and now - kept[0] < SHARED_SECONDS:
            return kept[1]
        made: News = make()
        with self._lock:
            self._kept = {k: v for k, v in self._kept.items() if now - v[0] < SHARED_SECONDS}
            if len(self._kept) < self._most:
                self._kept[key] = (now, made)
        return made


_shared = _Shared(64)


def offsets(seen: Mapping[str, str]) -> dict[PhaseKind, int]:
    """Up to which byte the page that asks has which log."""
    return {kind: int(text) for kind in PhaseKind if (text := seen.get(f"{kind.value}_at", "")).isdecimal()}
