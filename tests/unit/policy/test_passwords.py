"""What counts as a common password, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.passwords import LEAST, is_common, problem

ABOUT = ("alice", "alice.smith@example.com", "acme")


@pytest.mark.parametrize(
    "password",
    [
        "password1234", "Password123!", "P@ssw0rd2024!", "passwordpassword", "letmeinletmein", "iloveyou1234",
        "adminadmin12", "Summer2026!!!", "administrator1", "terraform-admin-1", "Trustno1trustno1", "dragonmonkey99",
        "123Welcome456", "839201746583", "12.04.1987-12", "changeme12345",
    ],
)  # fmt: skip
def test_common_words_with_digits_and_signs_are_refused(password: str) -> None:
    assert "first that are guessed" in (problem(password, ABOUT) or "")


@pytest.mark.parametrize(
    "password", ["qwertyuiop123", "1qaz2wsx3edc", "zxcvbnmasdfgh", "abcdefghijkl", "0987654321qwerty", "asdfghjklqwer"]
)
def test_walks_are_refused(password: str) -> None:
    assert "keyboard" in (problem(password, ABOUT) or "")


@pytest.mark.parametrize("password", ["aaaaaaaaaaaa", "abcabcabcabc", "x1x1x1x1x1x1x1", "111111111111"])
def test_repetitions_are_refused(password: str) -> None:
    assert problem(password, ABOUT)


@pytest.mark.parametrize(
    "password", ["alice-alice-2024", "Alice.Smith.99", "acme acme alice", "alice.smith@example.com"]
)
def test_what_everybody_knows_of_the_person_is_refused(password: str) -> None:
    assert "little more than your name" in (problem(password, ABOUT) or "")


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery", "tangerine submarine", "a long enough one", "xQ7#pL2vR9tB", "alice dislikes sprouts",
        "Straße über Köln", "ключ под камнем",
    ],
)  # fmt: skip
def test_good_ones_pass(password: str) -> None:
    assert problem(password, ABOUT) is None


@given(st.text(max_size=LEAST - 1))
def test_short_ones_are_refused(password: str) -> None:
    assert "at least 12" in (problem(password) or "")


@given(st.text(min_size=LEAST, max_size=1200))
def test_any_text_has_an_answer(password: str) -> None:
    problem(password, ABOUT)


def test_the_longest_is_answered_at_once() -> None:
    assert is_common("password" * 125)
