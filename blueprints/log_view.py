"""The log of a phase on a page: its end, what lies around a line, the lines before, and what a poll brings.

A page holds pieces of a log, each of consecutive lines, and between them gaps that say which lines are not shown and
bring them. Whatever is asked for is bounded in lines and in bytes of markup, so that the longest log with the longest
lines makes a page like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Response, request, stream_with_context

from blueprints.log_lines import Lines, Part, after_line, from_start, gap, to_end
from blueprints.run_steps import address, length
from models import Phase, PhaseStatus, Run
from policy.lifecycle import unattended
from policy.mfa import PhaseKind
from services import clock
from services.pulse import Log
from services.shared import Shared
from services.storage import logs

#: Lines of the log that a page begins with, those of one that is closed at first, and those that a gap brings at once.
TAIL_LINES, CLOSED_LINES, STEP_LINES = 2_000, 200, 2_000

#: The same in bytes of markup; 2,000 lines of 50 bytes are about 250 KB.
TAIL_BYTES, CLOSED_BYTES, STEP_BYTES = 268_000, 12_000, 268_000

#: Lines before and from a line that was asked for, with as much of the log's end, and bytes of markup for each.
WINDOW_BEFORE, WINDOW_FROM, WINDOW_BYTES = 300, 500, 80_000

_ENDED = (PhaseStatus.FINISHED, PhaseStatus.FAILED, PhaseStatus.CANCELED)
_LINE = re.compile(r"(plan|apply)-([1-9][0-9]{0,9})")


@dataclass(frozen=True)
class _Heading:
    """What stands above a log: ``live`` is whether more can come, ``followed`` whether it comes at present."""

    run: Run
    phase: Phase

    @property
    def kind(self) -> str:
        return self.phase.kind.value

    @property
    def live(self) -> bool:
        return self.phase.status not in _ENDED and not self.run.status.final

    @property
    def followed(self) -> bool:
        if self.phase.status is not PhaseStatus.RUNNING:
            return True
        return not unattended(self.run.status, self.phase.heartbeat_at, clock.now())

    @property
    def lasted(self) -> timedelta | None:
        return length(self.phase)


@dataclass(frozen=True)
class LogView(_Heading):
    """``parts`` in order, and ``end`` the offset after the last line."""

    parts: list[Part]
    end: int
    open: bool

    @property
    def at(self) -> dict[str, Any]:
        """What the addresses of this run are made of."""
        return address(self.run)

    @property
    def removed(self) -> datetime | None:
        return self.phase.log_removed_at


@dataclass(frozen=True)
class News:
    """What a poll brings of one log: perhaps a gap, and the lines up to the offset ``end``."""

    parts: list[Part]
    end: int


@dataclass(frozen=True)
class LogNews(_Heading):
    """The news of a log of the page, with what its heading says."""

    news: News


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
    return LogView(run=run, phase=phase, parts=parts, end=end, open=shown)


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


def fill(phase: Phase, first: int, last: int, *, from_above: bool = False, count: int = STEP_LINES) -> list[Part]:
    """Lines of the gap from ``first`` to ``last``, and what is left of it: those next to its end, or to its start."""
    first, last = max(first, 1), min(last, phase.log_lines)
    if first > last or phase.log_removed_at is not None:
        return []
    anchor = phase.kind.value
    count = min(count, last - first + 1)
    if from_above:
        found = from_start(logs.after(phase.id, first, count), anchor, STEP_BYTES)
        return [found, *gap(found.last + 1, last)] if found else []
    found = to_end(logs.before(phase.id, last + 1, count), anchor, STEP_BYTES)
    return [*gap(first, found.first - 1), found] if found else list(gap(first, last))


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
        rest = after_line(chunks[0])
        chunks[:1] = [rest] if rest.data else []
    if not chunks:
        return News([], end if whole else log.size)
    next_line = chunks[0].first_line
    if whole and (found := to_end(chunks, anchor, TAIL_BYTES, TAIL_LINES)):
        return News([*gap(next_line, found.first - 1), found], found.end)
    if whole:
        return News([], end)
    found = to_end(logs.before(log.phase_id, log.lines + 1, TAIL_LINES), anchor, TAIL_BYTES)
    if found is None or found.first < next_line:  # one line that is longer than all of this
        return News([], log.size)
    return News([*gap(next_line, found.first - 1), found], max(found.end, log.size))


def _end_and_window(phase: Phase, anchor: str, line: int | None, shown: bool) -> list[Part]:
    window = line is not None and line < phase.log_lines - TAIL_LINES // 2
    lines, size = (TAIL_LINES, TAIL_BYTES) if shown else (CLOSED_LINES, CLOSED_BYTES)
    if window:
        lines, size = WINDOW_FROM, WINDOW_BYTES
    limit = logs.READ_BYTES if shown else logs.READ_BYTES // 4
    tail = to_end(logs.before(phase.id, phase.log_lines + 1, lines, limit), anchor, size)
    if tail is None:
        return []
    if line is None or line >= tail.first:
        return [*gap(1, tail.first - 1), tail]
    line = max(line, 1)
    above = to_end(logs.before(phase.id, line, WINDOW_BEFORE), anchor, WINDOW_BYTES)
    count = min(WINDOW_FROM, tail.first - line)
    around = from_start(logs.after(phase.id, line, count), anchor, WINDOW_BYTES)
    begins = above.first if above else line
    ends = around.last if around else line - 1
    parts = [*gap(1, begins - 1), above, around, *gap(ends + 1, tail.first - 1), tail]
    return [part for part in parts if part is not None]


_shared: Shared[News] = Shared(64, 1.0)


def offsets(seen: Mapping[str, str]) -> dict[PhaseKind, int]:
    """Up to which byte the page that asks has which log."""
    return {kind: int(text) for kind in PhaseKind if (text := seen.get(f"{kind.value}_at", "")).isdecimal()}
