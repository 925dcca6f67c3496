"""Which texts a sensitive HCL value can leave in a log."""

from __future__ import annotations

import time

import pytest

from services.execution.hcl import literals, secrets
from services.execution.redact import MASK, Redactor


def hidden(value: str, line: str) -> bool:
    """Whether nothing of ``line`` but its mask is left."""
    return Redactor(secrets(value)).apply(line.encode()) == MASK


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ('["first-one", "other-one"]', "other-one"),
        ('{ a = "quo\\"ted" }', 'quo"ted'),
        ('{ a = "quo\\"ted" }', 'quo\\"ted'),
        ('["tab\\there"]', "tab\there"),
        ('["gr\\u00fcn", "\\U0001f511-key"]', "grün"),
        ('["gr\\u00fcn", "\\U0001f511-key"]', "🔑-key"),
        ('["$${literal}", "100%%{x}"]', "${literal}"),
        ('["$${literal}", "100%%{x}"]', "100%{x}"),
        ('["back\\\\slash"]', "back\\slash"),
        ("<<EOT\nfirst line\n  second line\nEOT", "first line"),
        ("<<EOT\nfirst line\n  second line\nEOT", "second line"),
        ("{ key = <<-PEM\n    MIIEpAIBAAKCAQEA\n    PEM\n}", "MIIEpAIBAAKCAQEA"),
        ("<<EOT\nwith $${dollars}\nEOT", "with ${dollars}"),
        ("[12345, 6789.25]", "12345"),
        ("[12345, 6789.25]", "6789.25"),
        ("hunter2hunter2", "hunter2hunter2"),
        ('["one-value", "two', '["one-value", "two'),
        ('["one-value", "two', "one-value"),
        ('"outer ${"nested"} text"', "nested"),
    ],
)
def test_each_text_is_hidden(value: str, line: str) -> None:
    assert hidden(value, line)


def test_a_line_as_terraform_quotes_it_in_an_error_is_hidden() -> None:
    assert hidden("{\n  pins = [[123], [456]]\n}", "pins = [[123], [456]]")


def test_what_says_nothing_stays_readable() -> None:
    redactor = Redactor(secrets('{ enabled = true, owner = null, "size" : false }'))
    for line in (b"enabled", b"owner", b"true", b"false", b"null"):
        assert redactor.apply(line) == line


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('{ pin = "123", pw = "longpassword" }', ["123", "longpassword"]),
        ('{ "ab" = "long", cd : "text", 12 = "more" }', ["long", "text", "more"]),
        ('{\n  a = "one"\n  b = ["two", 3]\n}', ["one", "two", "3"]),
        ("{ port = 22, on = true, off = false, none = null }", ["22"]),
        ('true ? "abc" : "longer"', ["abc", "longer"]),
        ('{ a = true ? "abc" : "longer" }', ["abc", "longer"]),
        ("{ a = (true ? 123456 : 654321) }", ["123456", "654321"]),
        ("-12", ["12"]),
        ('["\\u0061b"]', ["ab"]),
        ('["", " ", []]', []),
        ("<<EOT\nab\nEOT", ["ab\n"]),
        ('["$${ab}"]', ["${ab}"]),
        ('["long${"ab"}"]', ["long", "ab"]),
        ("ab # a comment", ["ab"]),
        ('["ab', ['["ab']),
    ],
)
def test_what_has_to_be_long_enough_each_by_itself(value: str, found: list[str]) -> None:
    assert literals(value) == found


def test_a_number_of_a_condition_is_hidden() -> None:
    assert hidden("{ a = (true ? 123456 : 654321) }", "123456")


HOSTILE = ["", '"', '"${' * 60_000, '"' * 100_001, "<<EOT\n" + "x" * 100_000, '"' + '\\"' * 100_000 + '"']


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_was_typed_is_read_in_little_time(value: str) -> None:
    began = time.process_time()
    assert value in [*secrets(value), ""]
    assert all(text in value.replace('\\"', '"') for text in literals(value))
    assert time.process_time() - began < 10


def test_many_open_brackets_are_read() -> None:
    assert "abcd" in secrets('["abcd", ' * 20_000)
