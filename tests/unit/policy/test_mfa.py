"""The pure rules of the gate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import mfa
from policy.mfa import MfaLevel, PhaseKind

NOW = datetime(2026, 3, 12, 14, 11, 32, tzinfo=UTC)


@pytest.mark.parametrize(
    ("level", "plan", "apply"),
    [(MfaLevel.NEVER, False, False), (MfaLevel.APPLIES_ONLY, False, True), (MfaLevel.PLANS_AND_APPLIES, True, True)],
)
def test_which_phases_a_level_asks_a_code_for(level: MfaLevel, plan: bool, apply: bool) -> None:
    assert (level.demands(PhaseKind.PLAN), level.demands(PhaseKind.APPLY)) == (plan, apply)


def test_the_levels_are_the_words_of_the_page() -> None:
    assert [level.value for level in MfaLevel] == ["never", "applies only", "plans and applies"]


@given(st.sampled_from(list(MfaLevel)), st.sampled_from(list(MfaLevel)))
def test_the_stricter_level_asks_wherever_one_of_them_asks(one: MfaLevel, other: MfaLevel) -> None:
    for phase in PhaseKind:
        assert mfa.stricter(one, other).demands(phase) == (one.demands(phase) or other.demands(phase))


@pytest.mark.parametrize("typed", ["123456", "123 456", " 123456\n", "123-456", "123\u00a0456", "000000"])
def test_pasted_codes_become_six_digits(typed: str) -> None:
    code = mfa.normalise_code(typed)
    assert code is not None and len(code) == 6 and code.isascii() and code.isdigit()


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "abcdef", "１２３４５６", "12345६", "12.3456", "123456 7"])
def test_anything_else_is_no_code(typed: str) -> None:
    assert mfa.normalise_code(typed) is None


@given(st.text())
def test_a_code_is_six_ascii_digits_or_nothing(typed: str) -> None:
    code = mfa.normalise_code(typed)
    assert code is None or (len(code) == 6 and set(code) <= set("0123456789"))


def test_five_failures_in_fifteen_minutes_make_a_person_wait() -> None:
    failures = [NOW - timedelta(minutes=m) for m in (14, 10, 5, 2, 1)]
    assert mfa.waiting_time(failures[1:], NOW) is None
    assert mfa.waiting_time(failures, NOW) == timedelta(minutes=1)
    assert mfa.waiting_time(failures, NOW + timedelta(minutes=1)) is None


@given(st.lists(st.integers(0, 3600), max_size=30))
def test_the_waiting_time_is_exact(ages: list[int]) -> None:
    failures = [NOW - timedelta(seconds=age) for age in ages]
    wait = mfa.waiting_time(failures, NOW)
    if wait is not None:
        assert timedelta(0) < wait <= mfa.ATTEMPT_WINDOW
        assert mfa.waiting_time(failures, NOW + wait) is None
        assert mfa.waiting_time(failures, NOW + wait - timedelta(seconds=1)) is not None
    else:
        assert sum(age < 900 for age in ages) < mfa.ATTEMPT_LIMIT


def test_the_next_code_comes_at_the_next_half_minute() -> None:
    assert mfa.next_code_in(NOW) == 28
    assert mfa.next_code_in(NOW.replace(second=0)) == 30


def test_credentials_need_five_minutes() -> None:
    assert mfa.usable(NOW + timedelta(minutes=5), NOW)
    assert not mfa.usable(NOW + timedelta(minutes=5, microseconds=-1), NOW)
