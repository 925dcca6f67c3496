r"""The forms in which a secret value can stand in a text: quoted, escaped, in an address, in base64.

Facts: JSON (RFC 8259, section 7; Go's encoder writes < > & as \u003c \u003e \u0026), HCL's quoted templates ("$${",
"%%{"), percent-encoding (RFC 3986, section 2.1; forms write a blank as +), base64 (RFC 4648). Terraform 1.11.4 quotes
values in errors and in "Executing: […]" as Go does, and JSON inside of a quoted string is escaped twice.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

MINIMUM = 4
"""Characters; a shorter value (or line of one) is not looked for: replacing every "no" or "1" of a log would make it
unreadable. The form refuses such a value as sensitive (policy/variables.py)."""

#: Characters that encoders of addresses leave as they are: none, paths, Python's and JavaScript's, Go's path segments.
_SAFE = ("", "/", "~()*!'/", "~()*!'", "$&+=:@", "$&+,/:;=@")
#: Above these sizes (bytes of the value, lines of it) only the plain forms are made: they would take too much memory.
_LARGE, _MANY_LINES = 16 * 1024, 200
#: A core of base64 shorter than this says too little, and stands by chance in other base64.
_SHORTEST_BASE64 = 6
#: Columns at which `base64` and `openssl base64` break their lines.
_BASE64_LINES = (76, 64)

_LINE_BREAKS = re.compile(r"[\r\n]+")
_SPACES = re.compile(rb"\s+")
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-f]{4}")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def forms(secret: str) -> set[bytes]:
    """All that is looked for: the lines of the value, and the whole of it where a form makes one line of it."""
    lines = [line for part in _LINE_BREAKS.split(secret) if len(line := part.strip()) >= MINIMUM]
    whole = secret.strip()
    found: set[bytes] = set()
    small = len(secret) <= _LARGE and len(lines) <= _MANY_LINES
    for text in dict.fromkeys([*lines, *([whole, secret] if len(whole) >= MINIMUM else [])]):
        found.update(_bytes(form) for form in (_texts(text) if small else _quoted(text)))
        if small or text == secret:
            found |= set(_base64(text))
    # A value that goes over several lines is looked for line by line; its quoted forms are in one.
    return {form for form in found if b"\n" not in form and b"\r" not in form and len(form) >= MINIMUM}


def unwrapped(secret: str) -> set[bytes]:
    """What to look for where line breaks and blanks were changed by wrapping: each run of them is one blank here."""
    if len(secret.strip()) < MINIMUM or not _SPACES.search(_bytes(secret.strip())):
        return set()
    return {_SPACES.sub(b" ", _bytes(form)) for form in (secret.strip(), *_quoted(secret.strip()))}


def _quoted(text: str) -> Iterator[str]:
    """As is, and as JSON, Go and HCL quote it."""
    plain = (text, text.replace("${", "$${").replace("%{", "%%{"))
    for value in dict.fromkeys(plain):
        yield value
        for escaped in dict.fromkeys((_json(value), _json(value).translate(_HTML), _json(value, ascii_only=True))):
            yield escaped
            yield _UNICODE_ESCAPE.sub(_upper, escaped)


def _texts(text: str) -> Iterator[str]:
    once = list(dict.fromkeys(_quoted(text)))
    yield from once
    for form in once[1:]:
        yield _json(form)  # JSON within a quoted string
    ascii_html = _json(text, ascii_only=True).translate(_HTML)
    yield from (ascii_html, _UNICODE_ESCAPE.sub(_upper, ascii_html))
    for safe in _SAFE:
        encoded = quote(text, safe=safe, errors="replace")
        for form in (encoded, encoded.replace("%20", "+")):
            yield form
            yield _PERCENT.sub(lambda found: found.group().lower(), form)


def _base64(text: str) -> Iterable[bytes]:
    """The value in either alphabet, with and without padding, by itself and inside of a longer base64 text."""
    value = text.encode("utf-8", "surrogatepass")
    for before in range(3):  # how many bytes of the same group of three stand before it
        encoded = base64.b64encode(bytes(before) + value)[(0, 2, 3)[before] :]
        bare = encoded.rstrip(b"=")
        # The last character of a group that is not full also holds bits of what follows.
        core = bare[:-1] if (before + len(value)) % 3 else bare
        found = [encoded, bare, core]
        if before == 0:
            found += [bare[at : at + width] for width in _BASE64_LINES for at in range(0, len(bare), width)]
        for form in found:
            if len(form) >= _SHORTEST_BASE64:
                yield form
                yield form.replace(b"+", b"-").replace(b"/", b"_")


def _json(text: str, *, ascii_only: bool = False) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]


def _upper(escape: re.Match[str]) -> str:
    return "\\u" + escape.group()[2:].upper()


def _bytes(text: str) -> bytes:
    # surrogatepass: a lone surrogate is a legal str and must not stop a run.
    return text.encode("utf-8", "surrogatepass")
