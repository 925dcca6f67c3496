"""What several people ask for at once is made once, and a failure is nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from services.shared import Shared

SECONDS = 20


def test_it_is_made_once_while_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("services.shared.time.monotonic", lambda: now)
    made = iter(range(1, 9))
    shared: Shared[int] = Shared(4, 1.0)

    def make() -> int:
        return next(made)

    def ask(key: str) -> int:
        return shared.get(key, make)

    assert [ask("a"), ask("b"), ask("a")] == [1, 2, 1]
    now = 101.0
    assert [ask("a"), ask("a")] == [3, 3]


def test_those_who_come_meanwhile_wait_for_it() -> None:
    shared: Shared[str] = Shared(4, 0.0)
    making, go, made = threading.Event(), threading.Event(), []

    def make() -> str:
        made.append(threading.current_thread().name)
        making.set()
        assert go.wait(SECONDS)
        return "one"

    answers: list[str] = []
    people = [threading.Thread(target=lambda: answers.append(shared.get("a", make))) for _ in range(4)]
    people[0].start()
    assert making.wait(SECONDS)
    waiting = _waiting(shared, people[1:])
    go.set()
    for person in people:
        person.join(SECONDS)
    assert waiting == 3 and answers == ["one"] * 4 and made == [people[0].name]


def _waiting(shared: Shared[str], people: list[threading.Thread]) -> int:
    """How many of them wait for the answer, once each has got so far."""
    _, answer = shared._kept["a"]
    waiters: list[object] = answer._condition._waiters  # type: ignore[attr-defined]
    for person in people:
        person.start()
    until = time.monotonic() + SECONDS
    while len(waiters) < len(people) and time.monotonic() < until:
        time.sleep(0.01)
    return len(waiters)


def test_a_failure_is_not_kept_and_not_shared() -> None:
    shared: Shared[str] = Shared(4, 60.0)
    making, go = threading.Event(), threading.Event()
    seen: list[object] = []

    def fail() -> str:
        making.set()
        assert go.wait(SECONDS)
        raise ConnectionError("away")

    def ask(make: Callable[[], str]) -> None:
        try:
            seen.append(shared.get("a", make))
        except ConnectionError as error:
            seen.append(str(error))

    first = threading.Thread(target=ask, args=(fail,))
    first.start()
    assert making.wait(SECONDS)
    second = threading.Thread(target=ask, args=(lambda: "mine",))
    assert _waiting(shared, [second]) == 1
    go.set()
    first.join(SECONDS)
    second.join(SECONDS)
    assert sorted(map(str, seen)) == ["away", "mine"]
    assert shared.get("a", lambda: "anew") == "anew"


def test_no_more_is_kept_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("services.shared.time.monotonic", lambda: now)
    shared: Shared[int] = Shared(2, 1.0)
    for number in range(5):
        assert shared.get(number, lambda: 7) == 7
    assert len(shared._kept) == 2
    now = 102.0
    shared.get("late", lambda: 0)
    assert list(shared._kept) == ["late"]
