"""The log of a phase on a page: the part that is there, and the part that a poll brings.

A poll names the byte offset up to which the page has the log; it gets the whole lines that follow, and the
next offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from blueprints.run_steps import address, length
from models import LogChunk, Phase, PhaseStatus, Run
from policy.mfa import PhaseKind
from services.storage import logs
from services.storage.ansi import render_lines

#: Lines of a log that a page begins with.
TAIL_LINES = 1000

#: "Show the whole log" shows at most this much of its end, in bytes: browsers wade through more. The download
#: has the rest.
WHOLE_BYTES = 4 * 1024 * 1024

_ENDED = (PhaseStatus.FINISHED, PhaseStatus.FAILED, PhaseStatus.CANCELED)


@dataclass(frozen=True)
class LogView:
    """``html`` are the lines, ``end`` the offset after the last of them, ``live`` whether more can come."""

    run: Run
    phase: Phase
    html: Markup
    first_line: int
    end: int
    live: bool
    behind: bool
    open: bool = False

    @property
    def kind(self) -> str:
        return self.phase.kind.value

    @property
    def at(self) -> dict[str, Any]:
        """What the addresses of this run are made of."""
        return address(self.run)

    @property
    def shown(self) -> int:
        """Bytes on the page, at most; for a log of which only the end is shown."""
        return WHOLE_BYTES

    @property
    def every(self) -> str:
        """How often the page asks for more: at once when there is more already, seldom while nothing runs."""
        if self.behind:
            return "200ms"
        return "3s" if self.phase.status is PhaseStatus.WAITING else "1s"

    @property
    def lasted(self) -> object:
        return length(self.phase)


def has_log(run: Run, kind: PhaseKind) -> bool:
    """Whether the page shows a log of this phase."""
    phase = run.phase(kind)
    return phase.log_size > 0 or phase.status is PhaseStatus.RUNNING


def page(run: Run, kind: PhaseKind, *, whole: bool = False) -> LogView:
    """The log so far: its last lines, or (nearly) all of it."""
    phase = run.phase(kind)
    live = _live(run, phase)
    if whole:
        found = logs.read(phase.id, max(phase.log_size - WHOLE_BYTES, 0), limit=1 << 62)
    else:
        found = logs.tail(phase, TAIL_LINES)
    first = found.chunks[0].first_line if found.chunks else 1
    last = PhaseKind.APPLY if has_log(run, PhaseKind.APPLY) else PhaseKind.PLAN
    return LogView(
        run=run,
        phase=phase,
        html=_lines(found.chunks, kind.value),
        first_line=first,
        end=found.end,
        live=live,
        behind=False,
        open=whole or (kind is last and (run.status.final or phase.status is not PhaseStatus.FINISHED)),
    )


def poll(run: Run, kind: PhaseKind, offset: int) -> LogView:
    """What came after ``offset``. The phase is looked at before its log, so that no last line is missed."""
    phase = run.phase(kind)
    live = _live(run, phase)
    found = logs.read(phase.id, offset)
    behind = found.end < found.size
    return LogView(
        run=run,
        phase=phase,
        html=_lines(found.chunks, kind.value),
        first_line=found.chunks[0].first_line if found.chunks else 0,
        end=found.end,
        live=live or behind,
        behind=behind,
    )


def _live(run: Run, phase: Phase) -> bool:
    return phase.status not in _ENDED and not run.status.final


def _lines(chunks: list[LogChunk], anchor: str) -> Markup:
    return Markup("").join(
        render_lines(
            chunk.data,
            chunk.first_line,
            chunk.sgr,
            anchor,
            own=chunk.tone is not None,
            tone=chunk.tone,
        ).html
        for chunk in chunks
    )
