"""Logs of ended phases are packed without a byte or a line changing, and removed when the settings say so."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Row, func, select

from extensions import db
from models import AuditEvent, LogChunk, Phase, PhaseStatus, Run, StateVersion
from policy.lifecycle import RunStatus
from policy.permissions import Role
from services import clock, housekeeping
from services.storage import logs
from tests import factories


@pytest.fixture
def here(app: Flask) -> Iterator[Flask]:
    housekeeping._memory.__init__()  # type: ignore[misc]
    with app.app_context():
        factories.member(role=Role.OWNER)
        yield app
        db.session.remove()


def ended(run: Run | None = None) -> Phase:
    phase = (run or factories.run(factories.environment(), RunStatus.APPLIED)).plan
    phase.status, phase.finished_at = PhaseStatus.FINISHED, clock.now()
    db.session.commit()
    return phase


def append(phase: Phase, data: bytes, tone: str | None = None) -> None:
    db.session.refresh(phase)
    logs.append(phase.id, phase.log_size, data, tone=tone)
    db.session.commit()


def chunks(phase: Phase) -> list[LogChunk]:
    return list(db.session.scalars(select(LogChunk).where(LogChunk.phase_id == phase.id).order_by(LogChunk.offset)))


def whole(phase: Phase) -> bytes:
    return b"".join(logs.raw(phase.id))


def tidy_all() -> None:
    for _ in range(200):
        housekeeping.tidy()
        left = select(func.count(Phase.id)).join(Run).where(
            Phase.log_packed_at.is_(None), Phase.status.in_((PhaseStatus.FINISHED, PhaseStatus.FAILED))
        )  # fmt: skip
        if not db.session.scalar(left):
            return
    raise AssertionError("never done")


def test_an_ended_log_becomes_a_few_compressed_chunks(here: Flask) -> None:
    phase = ended()
    logs.say(phase.id, "Configuration v1 unpacked")
    for n in range(300):
        append(phase, b"".join(b"line %d.%d of the log\n" % (n, k) for k in range(100)))
    append(phase, b"Applied by Lockstep\n", tone="ok")
    before, lines = whole(phase), phase.log_lines
    housekeeping.tidy(60)
    db.session.expire_all()
    found = chunks(phase)
    assert [chunk.tone for chunk in found] == ["own", None, None, None, "ok"]
    assert phase.log_packed_at is not None and all(chunk.packed for chunk in found[1:4])
    assert 256 * 1024 <= found[1].size <= 512 * 1024 and len(found[1].data) < found[1].size / 4
    assert whole(phase) == before and sum(chunk.lines for chunk in found) == lines
    housekeeping.tidy(60)
    assert [chunk.id for chunk in chunks(phase)] == [chunk.id for chunk in found]


def test_more_of_a_packed_log_is_packed_without_touching_what_is(here: Flask) -> None:
    phase = ended()
    append(phase, b"x" * 299_999 + b"\n")
    append(phase, b"small\n")
    housekeeping.tidy(60)
    first = chunks(phase)
    append(phase, b"late\n")
    db.session.refresh(phase)
    assert phase.log_packed_at is None
    housekeeping._memory.__init__()  # type: ignore[misc]
    housekeeping.tidy(60)
    second = chunks(phase)
    assert second[0].id == first[0].id and len(second) == len(first) == 2
    assert whole(phase).endswith(b"small\nlate\n")


def test_a_running_phase_is_left_alone(here: Flask) -> None:
    phase = factories.run(factories.environment(), RunStatus.APPLYING).apply
    phase.status = PhaseStatus.RUNNING
    append(phase, b"a\n")
    append(phase, b"b\n")
    housekeeping.tidy(60)
    assert len(chunks(phase)) == 2


PIECE = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"\n", b"a\n", b"\x1b[31mred\n", b"\x1b[0m", b"x" * 90_000 + b"\n", b"y" * 200_000, b"\xff\0\n"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PIECE, st.sampled_from([None, None, None, "own"])), max_size=14), st.integers(0, 10**6))
def test_reading_is_the_same_before_during_and_after(
    here: Flask, pieces: list[tuple[bytes, str | None]], seed: int
) -> None:
    chance = random.Random(seed)
    phase = ended()
    for data, tone in pieces:
        append(phase, data if tone is None else b"said\n", tone)
    db.session.refresh(phase)
    expected = whole(phase)
    assert len(expected) == phase.log_size

    def numbered() -> list[tuple[int, bytes]]:
        """Each line by its number, from a reading of all lines."""
        found: dict[int, bytes] = {}
        for chunk in logs.before(phase.id, phase.log_lines + 1, 10**9, 10**9):
            for n, line in enumerate(chunk.data.removesuffix(b"\n").split(b"\n"), chunk.first_line):
                found[n] = found.get(n, b"") + line
        return sorted(found.items())

    def looks() -> list[object]:
        cut = chance.randint(0, len(expected))
        first = chance.randint(1, phase.log_lines + 1)
        found = logs.since(phase.id, cut, 1 << 40) if cut < len(expected) else []
        assert b"".join(chunk.data for chunk in found) == expected[cut:]
        assert all(b.offset == a.end for a, b in itertools.pairwise(found))
        assert [n for n, _ in numbered()] == list(range(1, phase.log_lines + 1))
        some = b"".join(chunk.data for chunk in logs.after(phase.id, first, 3, 1 << 40))
        lines = (expected.removesuffix(b"\n") + b"\n").split(b"\n")[:-1] if expected else []
        assert (some.removesuffix(b"\n").split(b"\n") if some else []) == lines[first - 1 : first + 2]
        return [whole(phase), numbered(), [(c.first_line, c.sgr) for c in found[:1]]]

    state = chance.getstate()
    before = looks()
    for group in list(housekeeping._groups(phase.id)):
        housekeeping._pack(phase.id, group)
        chance.setstate(state)
        assert looks() == before
        # The same again finds its rows gone.
        housekeeping._pack(phase.id, group)
    tidy_all()
    chance.setstate(state)
    assert looks() == before


def test_two_at_once_pack_each_row_once(here: Flask) -> None:
    phase = ended()
    for n in range(60):
        append(phase, b"%d" % n * 20_000 + b"\n")
    expected = whole(phase)
    db.session.rollback()

    def work() -> None:
        with here.app_context():
            housekeeping.tidy(30)
            db.session.remove()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole(phase) == expected
    assert all(chunk.packed for chunk in chunks(phase))


def test_a_call_is_bounded(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = ended()
    for _ in range(10):
        append(phase, b"x" * 299_999 + b"\n")
    packed: list[int] = []
    pack = housekeeping._pack

    def counted(phase_id: int, group: list[Row[Any]]) -> None:
        packed.append(1)
        pack(phase_id, group)

    monkeypatch.setattr(housekeeping, "_pack", counted)
    housekeeping.tidy(0)
    assert packed == []
    housekeeping.tidy(0.001)
    assert len(packed) < 10
    tidy_all()
    assert whole(phase) == (b"x" * 299_999 + b"\n") * 10


def limits(app: Flask, monkeypatch: pytest.MonkeyPatch, days: int = 0, runs: int = 0) -> None:
    config = app.config["LOCKSTEP"]
    keep = timedelta(days=days) if days else None
    monkeypatch.setitem(app.config, "LOCKSTEP", replace(config, log_keep=keep, log_keep_runs=runs))


def removed() -> set[int]:
    query = select(Run.number).join(Phase).where(Phase.log_removed_at.is_not(None))
    return set(db.session.scalars(query))


def test_logs_are_kept_for_ever_unless_settings_say_otherwise(here: Flask) -> None:
    run = factories.run(factories.environment(), RunStatus.APPLIED, finished_at=clock.now() - timedelta(days=4000))
    append(ended(run), b"old\n")
    housekeeping.tidy(60)
    assert removed() == set() and whole(run.plan) == b"old\n"


def test_old_logs_go_and_nothing_else(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(here, monkeypatch, days=30)
    environment = factories.environment()
    for days in (40, 31, 29, 0):
        run = factories.run(environment, RunStatus.APPLIED, finished_at=clock.now() - timedelta(days=days))
        append(ended(run), b"log\n" * 100)
    factories.state(run)
    waiting = factories.run(environment, RunStatus.AWAITING_CONFIRMATION, created_at=clock.now() - timedelta(days=90))
    append(ended(waiting), b"waits\n")
    housekeeping.tidy(60)
    housekeeping.tidy(60)
    db.session.expire_all()
    assert removed() == {1, 2}
    gone = db.session.scalars(select(Run).where(Run.number == 1)).one()
    assert chunks(gone.plan) == [] and gone.plan.log_lines == 100 and gone.status is RunStatus.APPLIED
    assert gone.plan.log_packed_at is not None  # nothing is left to do
    assert whole(waiting.plan) == b"waits\n"
    assert db.session.scalar(select(func.count(StateVersion.id))) == 1
    removals = select(AuditEvent).where(AuditEvent.action == "run.log_removed").order_by(AuditEvent.id)
    events = list(db.session.scalars(removals))
    assert [event.details["number"] for event in events] == [1, 2]


def test_each_environment_keeps_its_newest(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(here, monkeypatch, runs=2)
    for name in ("network", "other"):
        for _ in range(3):
            append(ended(factories.run(factories.environment(name), RunStatus.APPLIED)), b"log\n")
    housekeeping.tidy(60)
    assert removed() == {1}
    count = select(func.count(Phase.id)).where(Phase.log_removed_at.is_not(None))
    assert db.session.scalar(count) == 2


def test_a_removal_that_was_killed_goes_on(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(here, monkeypatch, runs=1)
    environment = factories.environment()
    old = ended(factories.run(environment, RunStatus.APPLIED))
    append(ended(factories.run(environment, RunStatus.APPLIED)), b"new\n")
    for n in range(5):
        append(old, b"%d\n" % n)
    drop = housekeeping._drop
    monkeypatch.setattr(housekeeping, "_drop", lambda *_: False)  # killed after the mark
    housekeeping.tidy(60)
    assert removed() == {1} and len(chunks(old)) == 5
    monkeypatch.setattr(housekeeping, "_drop", drop)
    housekeeping._memory.__init__()  # type: ignore[misc]
    housekeeping.tidy(60)
    assert chunks(old) == []
    assert db.session.scalar(select(func.count(AuditEvent.id)).where(AuditEvent.action == "run.log_removed")) == 1
