"""Every form that a value can take on its way into a log, and the shapes in which terraform breaks it."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.execution.redact import MASK, Redactor, passwords_in

SECRET = 'pä s<s>&"w\\o/r$d+%{x}${y}'
RED, BOLD, OFF = b"\x1b[31m", b"\x1b[1m", b"\x1b[0m"
BAR = RED + "│".encode() + OFF + b" " + OFF
DATA = SECRET.encode()


def _json(text: str, **more: bool) -> str:
    return json.dumps(text, **more)[1:-1]  # type: ignore[arg-type]


def _html(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _lower(text: str) -> str:
    parts = text.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


FORMS = {
    "as is": SECRET,
    "JSON": _json(SECRET, ensure_ascii=False),
    "JSON in ASCII": _json(SECRET),
    "JSON in ASCII, capitals": _json(SECRET).replace("\\u00e4", "\\u00E4"),
    "JSON as Go writes it": _html(_json(SECRET, ensure_ascii=False)),
    "JSON as Go writes it, in ASCII": _html(_json(SECRET)),
    "JSON within JSON": _json(_json(SECRET, ensure_ascii=False), ensure_ascii=False),
    "JSON of Go within JSON": _json(_html(_json(SECRET, ensure_ascii=False)), ensure_ascii=False),
    "HCL": SECRET.replace("\\", "\\\\").replace('"', '\\"').replace("${", "$${").replace("%{", "%%{"),
    "HCL heredoc": SECRET.replace("${", "$${").replace("%{", "%%{"),
    "URL": quote(SECRET, safe=""),
    "URL, small letters": _lower(quote(SECRET, safe="")),
    "URL path": quote(SECRET),
    "URL form": quote_plus(SECRET),
    "URL form, small letters": _lower(quote_plus(SECRET)),
    "URL as JavaScript writes it": quote(SECRET, safe="~()*!'"),
    "base64": base64.b64encode(DATA).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(DATA).decode(),
    "base64 without padding": base64.b64encode(DATA).decode().rstrip("="),
    "base64 for URLs without padding": base64.urlsafe_b64encode(DATA).decode().rstrip("="),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_found_in_each_form(form: str) -> None:
    line = f"x = [{FORMS[form]}]\n".encode()
    assert Redactor([SECRET]).apply(line) == b"x = [" + MASK + b"]\n"


@given(st.binary(max_size=7), st.text(min_size=8, max_size=40), st.binary(max_size=7), st.booleans())
def test_in_a_longer_base64_text_no_bytes_of_it_stay(before: bytes, secret: str, after: bytes, urlsafe: bool) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    value = secret.encode()
    encoded = encode(before + b"|" + value + b"|" + after)
    if not any(len(line.strip()) >= 4 for line in secret.splitlines()) or len(secret.strip()) < 8:
        return
    if secret != secret.strip():
        return
    redacted = Redactor([secret]).apply(b'"' + encoded + b'"\n')
    assert MASK in redacted
    for part in redacted.split(MASK):
        for shift in range(4):
            text = part.strip(b'"\n=').replace(b"-", b"+").replace(b"_", b"/")[shift:]
            decoded = base64.b64decode(text[: len(text) & -4])
            assert value[2:-2] not in decoded


@pytest.mark.parametrize("width", [64, 76])
def test_base64_that_was_broken_into_lines(width: int) -> None:
    secret = "".join(chr(33 + number % 90) for number in range(300))
    encoded = base64.b64encode(secret.encode()).decode()
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
    redacted = Redactor([secret]).apply("".join(f"x (local-exec): {line}\n" for line in lines).encode())
    assert redacted == (b"x (local-exec): " + MASK + b"\n") * len(lines)


def test_a_quoted_value_of_several_lines_is_hidden_with_its_short_lines() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nQ==\n-----END KEY-----\n"
    redactor = Redactor([key])
    for form in (key, key.strip()):
        for text in (json.dumps(form)[1:-1], quote(form, safe=""), base64.b64encode(form.encode()).decode()):
            assert redactor.apply(b"[" + text.encode() + b"]") in (b"[" + MASK + b"]", b"[" + MASK + b"\\n]")
    assert redactor.apply(key.encode()) == MASK + b"\n" + MASK + b"\nQ==\n" + MASK + b"\n", "too short to hide"


def test_colours_within_a_value_do_not_save_it() -> None:
    line = b"a " + BOLD + DATA[:5] + OFF + RED + DATA[5:] + OFF + b" z"
    assert Redactor([SECRET]).apply(line) == b"a " + BOLD + MASK + OFF + RED + OFF + b" z"


def _frame(*lines: bytes) -> bytes:
    body = b"".join(BAR + line + b"\n" for line in lines)
    return RED + "╷".encode() + OFF + b"\n" + body + RED + "╵".encode() + OFF + b"\n"


def test_a_value_that_an_error_broke_into_lines() -> None:
    """As terraform 1.11.4 wraps it, at blanks and 78 columns."""
    secret = "correct horse battery staple with many words that are a passphrase of somebody and long indeed"
    frame = _frame(
        b'Invalid value for "v" parameter: cannot convert "correct horse battery',
        b"staple with many words that are a passphrase of somebody and long",
        b'indeed" to number; given string must be a decimal.',
    )
    redacted = Redactor([secret]).apply(b"before\n" + frame + b"after\n")
    for word in secret.split():
        if word not in ("a", "to"):
            assert b" " + word.encode() not in redacted and b'"' + word.encode() not in redacted
    assert b'cannot convert "' + MASK in redacted
    assert b'" to number; given' in redacted
    assert redacted.startswith(b"before\n") and redacted.endswith(b"after\n")


def test_a_value_of_several_lines_in_an_error() -> None:
    frame = _frame(b"until it has to be wrapped line", b"one", b"second line", b"x by terraform.")
    redacted = Redactor(["line one\nsecond line\nx"]).apply(frame)
    assert b"to be wrapped " + MASK in redacted
    assert b" by terraform." in redacted
    assert b"second" not in redacted


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("Downloading git::https://bob:s3cr3t@git.example/m.git", "Downloading git::https://bob:•••@git.example/m.git"),
        ("https://bob:a%40b@h and https://git@h/x", "https://bob:•••@h and https://git@h/x"),
        ("postgres://app:pw@db:5432/x?a=b@c", "postgres://app:•••@db:5432/x?a=b@c"),
        ("https://ghp_0123456789abcdefABCDEF@github.com/a/b", "https://•••@github.com/a/b"),
        ("ssh://git@github.com:22/a http://h:80/x", "ssh://git@github.com:22/a http://h:80/x"),
        ("token lsp_" + "aB3-" * 10 + " end", "token ••• end"),
    ],
)
def test_what_looks_like_a_secret_is_one_whoever_gave_it(line: str, rest: str) -> None:
    assert Redactor([]).text(line) == rest


def test_passwords_are_read_out_of_addresses() -> None:
    assert passwords_in('source = "git::https://u:first@h/x.git"\nb = "http://v:s%40nd@h ssh://git@h"') == {
        "first",
        "s%40nd",
    }


def test_trees_lose_secrets_in_strings_names_and_numbers() -> None:
    tree = {"a": [1, True, None, "x", SECRET], SECRET: {"n": 73550815.0, "m": 73550815}, "j": json.dumps({"p": SECRET})}
    assert Redactor([SECRET, "73550815"]).hide(tree) == {
        "a": [1, True, None, "x", "•••"],
        "•••": {"n": "•••", "m": "•••"},
        "j": '{"p": "•••"}',
    }
    same = {"a": [1, 2.5, "nothing"]}
    assert Redactor([SECRET]).hide(same) is same


def test_html_in_a_page_is_no_form_of_a_log() -> None:
    """A page escapes what it shows, after redaction."""
    assert MASK not in Redactor(["a<b>c&d"]).apply(html.escape("a<b>c&d").encode())


@pytest.mark.parametrize("length", range(4, 24))
def test_a_value_of_any_length_is_found_at_any_place(length: int) -> None:
    secret = "Zx9_kQ7!mW2#vB5$nL8%pR4&"[:length]
    redactor = Redactor([secret])
    for before in range(9):
        for after in range(5):
            text = b"." * before + secret.encode() + b"." * after
            assert redactor.apply(text) == b"." * before + MASK + b"." * after


def test_thirty_secrets_cost_little() -> None:
    """The pipeline has to move 20 MB/s; the margin is wide, so that a busy machine does not fail it."""
    secrets = [f"Tr0ub4dor&{number:03}/xyz<{number}>" for number in range(30)]
    redactor = Redactor(secrets)
    line = b"\x1b[0m\x1b[1maws_instance.web[7]: Still creating... [id=i-0123456789abcdef, 10s elapsed]\x1b[0m\x1b[0m\n"
    batch = line * (65536 // len(line))
    redactor.apply(batch)
    began = time.process_time()
    for _ in range(100):
        redactor.apply(batch)
    assert 100 * len(batch) / (time.process_time() - began) > 25e6
