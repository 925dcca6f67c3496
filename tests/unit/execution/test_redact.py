"""Redaction by exact value."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from services.execution.redact import MASK, Redactor, standing


def test_values_are_replaced_in_every_form_terraform_prints() -> None:
    redactor = Redactor(['pa"ss\\word/x', "ünïcode", "abc", ""])
    assert redactor.apply(b'plain pa"ss\\word/x.\n') == b"plain " + MASK + b".\n"
    assert redactor.apply(b'x = "pa\\"ss\\\\word/x"\n') == b'x = "' + MASK + b'"\n'
    assert redactor.apply(b"https://u:pa%22ss%5Cword%2Fx@h\n") == b"https://u:" + MASK + b"@h\n"
    assert redactor.apply("ünïcode".encode()) == MASK
    assert redactor.apply(b"abc stays: too short\n") == b"abc stays: too short\n"


def test_multi_line_values_are_taken_line_by_line() -> None:
    redactor = Redactor(["first line\r\n  second line\nend\n"])
    assert redactor.apply(b"  + first line\n      second line\n  end\n") == (
        b"  + " + MASK + b"\n      " + MASK + b"\n  end\n"
    )


def test_the_longest_and_overlapping_values_leave_no_rest() -> None:
    assert Redactor(["secret", "secret-long"]).apply(b"a secret-long b") == b"a " + MASK + b" b"
    assert Redactor(["abcdef", "defghi"]).apply(b"-abcdefghi-") == b"-" + MASK + b"-"
    assert Redactor(["aaaa"]).apply(b"aaaaaaa") == MASK
    assert Redactor(["key1", "key2"]).apply(b"key1key2") == MASK + MASK


def test_nothing_to_hide_and_nothing_in_its_representation() -> None:
    assert Redactor([]).apply(b"\xff\x00 bytes\n") == b"\xff\x00 bytes\n"
    assert "hunter2" not in repr(Redactor(["hunter2!"]))


@given(st.lists(st.text("ab", min_size=4, max_size=8), max_size=3), st.text("abc", max_size=60))
def test_no_secret_survives(secrets: list[str], text: str) -> None:
    redacted = Redactor(secrets).apply(text.encode())
    for part in redacted.split(MASK):
        assert not any(secret.encode() in part for secret in secrets)


def test_a_value_that_touches_the_mask_is_no_exception() -> None:
    for tail in ("••• tail", "• tail"):
        text = f"abcd tail {tail}".encode()
        assert Redactor([tail, "abcd"]).apply(text) == MASK + b" tail " + MASK


def test_a_very_long_value_takes_no_time() -> None:
    value = "ab" * 100_000
    assert Redactor([value]).apply(b"-" + value.encode() + b"-\n") == b"-" + MASK + b"-\n"


@given(st.integers(1, 5), st.text(st.characters(codec="utf-8"), min_size=4).filter(lambda text: text.strip() == text))
def test_what_stands_in_a_state_is_found_however_often_it_was_quoted(times: int, secret: str) -> None:
    text = f"a {secret} b"
    for _ in range(times):
        text = json.dumps({"key": text}, ensure_ascii=False)
    assert standing([secret, "not in it at all"], text.encode()) == ({secret} if Redactor([secret]).longest else set())
