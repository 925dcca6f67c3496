"""Many who look at one run: what is the same for all of them is read once, and nobody misses anything by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import event

from extensions import db
from policy.lifecycle import RunStatus
from services import pulse
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web.test_runs_fragments import append, change, first, keys, poll, stale, tell


@pytest.fixture
def long(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one sees, the others are told until the end of the test."""
    monkeypatch.setattr(pulse.shared, "seconds", 600)


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    said: list[str] = []

    def hear(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        said.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", hear)
    yield said
    event.remove(engine, "before_cursor_execute", hear)


def reads(statements: list[str]) -> int:
    return sum(statement.lstrip().startswith("SELECT") for statement in statements)


def test_a_second_viewer_costs_one_statement(
    app: Flask, alice: Client, bob: Client, world: World, long: None, statements: list[str]
) -> None:
    tell(app, RunStatus.APPLYING)
    mine, theirs = first(alice, world), first(bob, world)
    append(app, b"a line\n")
    assert "a line" in poll(alice, world, mine)[1]
    statements.clear()
    assert "a line" in poll(bob, world, theirs)[1]
    assert reads(statements) == 1, statements


def test_who_may_no_longer_see_it_is_told_nothing(
    app: Flask, alice: Client, bob: Client, world: World, long: None
) -> None:
    tell(app, RunStatus.APPLYING)
    mine, theirs = first(alice, world), first(bob, world)
    append(app, b"a line\n")
    assert poll(alice, world, mine)[0] == 200
    with app.app_context():
        factories.grant(factories.environment(), "bob", None)
    status, page = poll(bob, world, theirs)
    assert status == 404 and "a line" not in page


def test_a_stranger_gets_nothing_of_what_others_share(
    app: Flask, alice: Client, carol: Client, anonymous: Client, world: World, long: None
) -> None:
    tell(app, RunStatus.APPLYING)
    mine = first(alice, world)
    append(app, b"a line\n")
    assert "a line" in poll(alice, world, mine)[1]
    assert poll(carol, world, mine)[0] == 404
    status, page = poll(anonymous, world, mine)
    assert status != 200 and "a line" not in page


def test_a_page_is_made_from_what_is_so_now(app: Flask, alice: Client, world: World, long: None) -> None:
    tell(app, RunStatus.APPLYING)
    seen = first(alice, world)
    assert poll(alice, world, seen)[0] == 204
    change(app, status=RunStatus.APPLIED)
    assert poll(alice, world, seen)[0] == 204, "for a moment"
    page = poll(alice, world, stale(seen))[1]
    assert "Applied" in page
    pulse.shared.seconds = 0
    assert poll(alice, world, keys(page))[0] == 204, "its stamp is of now, too"


def test_what_another_process_told_does_not_come_twice(app: Flask, alice: Client, world: World, long: None) -> None:
    tell(app, RunStatus.APPLYING)
    seen = first(alice, world)
    assert poll(alice, world, seen)[0] == 204
    append(app, b"a line\n")
    ahead = {**seen, **keys(poll(alice, world, stale(seen))[1])}
    assert ahead["plan_at"] > seen["plan_at"]
    page = poll(alice, world, {**ahead, "stamp": seen["stamp"]})[1]
    assert "a line" not in page and keys(page)["plan_at"] == ahead["plan_at"]


def test_lines_are_read_in_a_transaction_that_sees_them(
    app: Flask, alice: Client, world: World, long: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(app, RunStatus.APPLYING)
    seen = first(alice, world)
    glance = pulse.glance

    def early(asked: pulse.Asked) -> pulse.Pulse | None:
        """Before anything else of this poll is read, others see a new line."""
        db.session.connection()
        found = glance(asked)
        append(app, b"a line\n")
        with app.app_context():
            younger = pulse.look(asked)
        assert found is not None and younger is not None
        return replace(found, logs=younger.logs)

    monkeypatch.setattr(pulse, "glance", early)
    assert "a line" in poll(alice, world, seen)[1]
