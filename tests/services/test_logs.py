"""Appending to a log and reading it: what it costs, and what happens when something is repeated or rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import LogChunk, Phase
from policy.lifecycle import RunStatus
from policy.permissions import Role
from services.storage import logs
from tests import factories


@pytest.fixture
def phase(app: Flask) -> Iterator[Phase]:
    with app.app_context():
        factories.member(role=Role.OWNER)
        yield factories.run(factories.environment(), RunStatus.APPLYING).apply
        db.session.remove()


@pytest.fixture
def statements(phase: Phase) -> Iterator[list[str]]:
    """Every statement from here on, without the beginnings of transactions."""
    seen: list[str] = []

    def note(*event: Any) -> None:
        if not event[2].startswith("BEGIN"):
            seen.append(event[2])

    db.event.listen(db.engine, "before_cursor_execute", note)
    yield seen
    db.event.remove(db.engine, "before_cursor_execute", note)


def styles(phase: Phase) -> list[str]:
    return list(db.session.scalars(select(LogChunk.sgr).where(LogChunk.phase_id == phase.id).order_by(LogChunk.offset)))


def test_a_batch_is_three_statements_and_reads_nothing_of_the_log(phase: Phase, statements: list[str]) -> None:
    phase_id = phase.id
    logs.append(phase_id, 0, b"first \x1b[31mred\n")
    db.session.commit()
    statements.clear()
    end = logs.append_all(phase_id, [(15, b"still red\n"), (25, b"\x1b[0mplain\n")], spool_offset=35)
    assert len(statements) == 3 and end == 35
    assert not any("log_chunk.data" in statement for statement in statements)
    db.session.commit()
    assert styles(phase) == ["", "31", "31"]
    assert (phase.log_size, phase.log_lines, phase.spool_offset) == (35, 3, 35)


def test_another_process_finds_the_colour_in_the_log(phase: Phase) -> None:
    logs.append(phase.id, 0, b"\x1b[1;32mgreen\n")
    db.session.commit()
    logs._ends.clear()
    logs.append(phase.id, 13, b"still green\n")
    db.session.commit()
    assert styles(phase) == ["", "1;32"]


def test_what_is_repeated_is_a_no_op_and_a_gap_is_refused(phase: Phase) -> None:
    logs.append(phase.id, 0, b"one\n")
    db.session.commit()
    assert logs.append_all(phase.id, [(0, b"one\n"), (4, b"two\n")]) == 8
    db.session.commit()
    assert logs.append(phase.id, 4, b"two\n") == 8
    assert b"".join(logs.raw(phase.id)) == b"one\ntwo\n"
    with pytest.raises(logs.LogGap):
        logs.append(phase.id, 9, b"three\n")


def test_what_was_rolled_back_is_not_remembered(phase: Phase) -> None:
    logs.append(phase.id, 0, b"one\n")
    db.session.commit()
    phase_id = phase.id
    logs.append(phase_id, 4, b"\x1b[31mtwo")
    db.session.rollback()
    logs.append(phase_id, 4, b"2\n")
    logs.say(phase.id, "said")
    db.session.commit()
    assert b"".join(logs.raw(phase_id)) == b"one\n2\nsaid\n" and styles(phase) == ["", "", ""]
    assert phase.log_lines == 3


def test_a_download_holds_no_connection_while_a_piece_is_on_its_way(phase: Phase, app: Flask) -> None:
    for _ in range(60):
        db.session.refresh(phase)
        logs.append(phase.id, phase.log_size, b"x" * 99_999 + b"\n")
        db.session.commit()
    phase_id, size = phase.id, 6_000_000
    db.session.rollback()
    pieces = logs.stream(phase_id, size)
    total = 0
    for piece in pieces:
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        total += len(piece)
    assert total == size
    # What came after the download began is not in it.
    assert sum(map(len, logs.raw(phase_id, 150_000))) == 150_000


def test_lines_are_found_from_either_side(phase: Phase) -> None:
    logs.append(phase.id, 0, b"".join(b"%d\n" % n for n in range(1, 101)))
    db.session.commit()
    logs.say(phase.id, "own line")
    logs.append(phase.id, phase.log_size, b"102\n103")
    db.session.commit()
    lines = lambda chunks: b"".join(chunk.data for chunk in chunks).split()  # noqa: E731
    assert lines(logs.before(phase.id, 51, 2)) == [b"49", b"50"]
    assert lines(logs.after(phase.id, 100, 3)) == [b"100", b"own", b"line", b"102"]
    assert lines(logs.before(phase.id, 104, 2)) == [b"102", b"103"]
    assert logs.before(phase.id, 1, 5) == [] and logs.after(phase.id, 104, 5) == []
    assert [chunk.first_line for chunk in logs.before(phase.id, 103, 3)] == [100, 101, 102]
