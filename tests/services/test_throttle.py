"""Guesses are slowed down, counted right by any number at once, and keep nobody out for good."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent, Throttle
from policy.throttling import LONGEST, delay
from services import accounts, throttle
from services.errors import Invalid
from services.throttle import Key, Throttled
from tests import factories
from tests.factories import PASSWORD
from tests.support import lab

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = Key("account:test", 5)


def test_the_delay_doubles_and_ends() -> None:
    waits = [delay(n, 5).total_seconds() for n in range(1, 16)]
    assert waits == [0, 0, 0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert delay(10_000, 5) == LONGEST


def test_after_five_failures_the_next_has_to_wait(here: Flask) -> None:
    with time_machine.travel(START, tick=False) as clock:
        for _ in range(5):
            throttle.take(KEY)
        with pytest.raises(Throttled, match="This one was not looked at; try again in 3 seconds"):
            throttle.take(KEY)
        clock.shift(2.1)
        throttle.take(KEY)
        with pytest.raises(Throttled) as refused:
            throttle.take(KEY)
        assert refused.value.waiting == 4 + 1
        clock.shift(4.1)
        throttle.take(KEY)


def test_failures_are_forgotten_after_a_while(here: Flask) -> None:
    with time_machine.travel(START, tick=False) as clock:
        for _ in range(5):
            throttle.take(KEY)
        clock.shift(timedelta(minutes=15, seconds=1))
        for _ in range(5):
            throttle.take(KEY)


def test_of_many_at_the_same_moment_five_are_looked_at(here: Flask) -> None:
    together = threading.Barrier(12)

    def attempt() -> bool:
        together.wait(20)
        try:
            throttle.take(KEY, Key("address:10.0.0.1", 20))
        except Throttled:
            return False
        return True

    crowd = [lab.Beside(here, attempt) for _ in range(12)]
    assert sum(one.result() for one in crowd) == 5
    assert [row.failures for row in db.session.query(Throttle).order_by(Throttle.key)] == [5, 5]


def test_what_somebody_counted_since_the_look_is_seen(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL the count sees more than the look right before it did."""
    for _ in range(5):
        throttle.take(KEY)
    looks = iter([lambda _keys: 0])
    real = throttle._waiting
    monkeypatch.setattr(throttle, "_waiting", lambda keys: next(looks, real)(keys))
    with pytest.raises(Throttled):
        throttle.take(KEY)
    assert db.session.scalars(select(Throttle.failures)).one() == 5


def test_who_waits_is_counted_nowhere(here: Flask) -> None:
    for _ in range(5):
        throttle.take(KEY)
    other = Key("address:10.0.0.1", 20)
    with pytest.raises(Throttled):
        throttle.take(KEY, other)
    assert db.session.get(Throttle, other.text) is None


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_known_and_unknown_names_are_slowed_down_alike(here: Flask, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        assert accounts.sign_in(name, "wrong") is None

    def never(*_: object) -> bool:
        raise AssertionError("a password was computed for somebody who has to wait")

    monkeypatch.setattr(accounts, "check_password_hash", never)
    with pytest.raises(Throttled):
        accounts.sign_in(name, PASSWORD)
    assert db.session.query(AuditEvent).filter_by(action="session.refused").count() == 5


def test_a_good_password_forgets_the_failures_of_the_account(here: Flask) -> None:
    for _ in range(4):
        accounts.sign_in("alice", "wrong")
    assert accounts.sign_in("alice", PASSWORD) is not None
    for _ in range(5):
        assert accounts.sign_in("alice", "wrong") is None


def test_guesses_from_elsewhere_keep_nobody_out_at_home(here: Flask) -> None:
    with here.test_request_context(environ_base={"REMOTE_ADDR": "10.0.0.7"}):
        factories.sign_in("alice")
    with here.test_request_context(environ_base={"REMOTE_ADDR": "203.0.113.9"}):
        for _ in range(5):
            accounts.sign_in("alice", "wrong")
        with pytest.raises(Throttled):
            accounts.sign_in("alice", PASSWORD)
    with here.test_request_context(environ_base={"REMOTE_ADDR": "10.0.0.7"}):
        assert accounts.sign_in("alice", PASSWORD) is not None


def test_an_address_that_tries_many_names_is_slowed_down(here: Flask) -> None:
    with here.test_request_context(environ_base={"REMOTE_ADDR": "203.0.113.9"}):
        for n in range(20):
            accounts.sign_in(f"name{n}", "wrong")
        with pytest.raises(Throttled):
            accounts.sign_in("another", "wrong")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_what_counts_as_one_address(here: Flask, one: str, other: str, same: bool) -> None:
    keys = []
    for address in (one, other):
        with here.test_request_context(environ_base={"REMOTE_ADDR": address}):
            keys.append(throttle.of_address())
    assert (keys[0] == keys[1]) is same


def test_what_was_typed_as_a_name_is_not_kept(here: Flask) -> None:
    accounts.sign_in("correct horse battery staple", "wrong")
    assert not [row.key for row in db.session.query(Throttle) if "correct" in row.key]


def test_a_hijacked_session_guesses_no_password(here: Flask) -> None:
    sign_in = factories.sign_in("alice")
    for _ in range(5):
        with pytest.raises(Invalid):
            accounts.prove(sign_in, "wrong")
    with pytest.raises(Throttled):
        accounts.change_password(factories.person("alice"), PASSWORD, "another long password")
