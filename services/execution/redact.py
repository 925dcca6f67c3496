"""Redaction of a log before it is stored.

Terraform masks what a configuration calls sensitive, but a provisioner, a provider's error or an `output` can still
print a value. Whatever value the run was given as a secret is replaced, in every form of services/execution/forms.py,
also where colours stand within it or an error's frame broke it into lines. Passwords in addresses (of Git, of
databases) and Lockstep's own API tokens are known by their look and replaced whoever gave them.

What is not found: a value that a program cuts into pieces, reverses or encrypts before it prints it.
"""

from __future__ import annotations

import json
import re
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from services.execution.forms import MINIMUM, forms, unwrapped

__all__ = ["MASK", "MINIMUM", "HideAll", "Redactor", "passwords_in", "standing"]

MASK = "•••".encode()
LARGE = 4096

_GRAM = 4  # bytes
_WINDOW = 2 * _GRAM - 1

_ANSI = re.compile(rb"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_BAR = "│".encode()
_FRAMED = re.compile(rb"^\xe2\x94\x82.*(?:\n\xe2\x94\x82.*)+", re.MULTILINE)
_BLANKS = re.compile(rb"\s*\n\xe2\x94\x82\s*|[ \t\r]+")

#: user:password@ of an address; and a user without a password that is long enough for a token ("git" is none).
_URL_PASSWORD = re.compile(rb"(://[^\s/?#:@\"'\\]*:)(?!\xe2\x80\xa2)[^\s/?#@\"'\\]+(?=@)")
_URL_TOKEN = re.compile(rb"(://)[A-Za-z0-9_.~%-]{16,}(?=@)")
_API_TOKEN = re.compile(rb"\blsp_[A-Za-z0-9_-]{20,}")
_PASSWORD_TEXT = re.compile(r"://[^\s/?#:@\"'\\]*:([^\s/?#@\"'\\]+)@|://([A-Za-z0-9_.~%-]{16,})@")

Spans = list[tuple[int, int]]


class Redactor:
    """Replaces secrets in bytes with `MASK`. Only values of at least `MINIMUM` characters count.

    A multi-line secret is taken line by line (each without its indentation, which terraform changes), because a log
    is read line by line. `longest` is the length in bytes of the longest form looked for.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = list(dict.fromkeys(secrets))
        needles = {_ANSI.sub(b"", form) or form for secret in secrets for form in forms(secret)}
        self._search = _Search(needles)
        self._wrapped = _Search({form for secret in secrets for form in unwrapped(secret)})
        self._known: dict[tuple[bytes, ...], bool] = {}
        self.longest = self._search.longest

    def __repr__(self) -> str:
        return f"Redactor({len(self._search)} forms)"

    def spans(self, data: bytes) -> Spans:
        """Where secrets stand in `data`, as (start, end), overlapping ones merged, in order.

        Searching for each value by itself and merging hides also the rest of a value that overlaps
        another one, which a regular expression's alternation would leave standing.
        """
        view, origin = _without(data, _ANSI, b"") if b"\x1b" in data else (data, None)
        found = self._search.spans(view)
        if self._wrapped and _BAR in view:
            for frame in _FRAMED.finditer(view):
                text, places = _without(frame.group(), _BLANKS, b" ")
                for start, end in places.back(self._wrapped.spans(text)):
                    found.append((frame.start() + start, frame.start() + end))
        merged = _merged(found)
        return _merged(origin.back(merged)) if origin is not None else merged

    def apply(self, data: bytes) -> bytes:
        """`data` (a line, or several whole lines) without the secrets."""
        view = _ANSI.sub(b"", data) if b"\x1b" in data else data
        if self._wrapped and _BAR in view:  # a part that is replaced first would hide the whole from the search
            return _by_look(self._replaced(data))
        present = self._search.present(view)
        if present and self._independent(present):
            # The same result in a fraction of the time, for a secret that stands in every line.
            for needle in present:
                data = data.replace(needle, MASK)
            present = self._search.present(_ANSI.sub(b"", data)) if b"\x1b" in data else ()
        if present:
            data = self._replaced(data)
        return _by_look(data)

    def hide(self, tree: Any) -> Any:
        """JSON (what `json.loads` gives) with the secrets in its strings, names and numbers replaced."""
        if not self._touches(tree):
            return tree
        return self._hidden(tree)

    def text(self, text: str) -> str:
        """The same for a text of its own."""
        return self.apply(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")

    def _replaced(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        position = 0
        for start, end in self.spans(data):
            # Colours within a value stay, so that what follows has its own again.
            parts += (data[position:start], MASK, *_ANSI.findall(data, start, end))
            position = end
        parts.append(data[position:])
        return b"".join(parts)

    def _touches(self, tree: Any) -> bool:
        """Whether anything in it would be replaced: one look at all texts together, for large plans and states."""
        text = "\n".join(_texts(tree)).encode("utf-8", "surrogatepass")
        return self.apply(text) != text

    def _hidden(self, tree: Any) -> Any:
        if isinstance(tree, str):
            return self.text(tree)
        if isinstance(tree, dict):
            return {self.text(name): self._hidden(part) for name, part in tree.items()}
        if isinstance(tree, list):
            return [self._hidden(part) for part in tree]
        if isinstance(tree, int | float) and not isinstance(tree, bool):
            number = json.dumps(tree)
            return tree if self.text(number) == number else MASK.decode()
        return tree

    def _independent(self, needles: tuple[bytes, ...]) -> bool:
        """Whether no two occurrences of these values (or of one of them) can ever overlap."""
        if needles not in self._known:
            if len(self._known) > 100:
                self._known.clear()
            texts = (*needles, MASK)
            self._known[needles] = not any(_can_overlap(a, b) for a in texts for b in texts if not a == b == MASK)
        return self._known[needles]


class HideAll(Redactor):
    """Shows nothing at all, for when it is not known what has to be hidden."""

    def __init__(self) -> None:
        super().__init__(())

    def apply(self, data: bytes) -> bytes:
        """Nothing."""
        return b""

    def hide(self, tree: Any) -> Any:
        """Nothing."""
        return None


def passwords_in(text: str) -> set[str]:
    """Passwords of addresses in `text` (a variable's value, a file of a configuration): https://user:password@host."""
    if "://" not in text or "@" not in text:
        return set()
    return {found.group(1) or found.group(2) for found in _PASSWORD_TEXT.finditer(text)}


def standing(secrets: Iterable[str], data: bytes) -> set[str]:
    """Those of which a form stands in `data`, a file of JSON, however often it was quoted there.

    A text that is quoted once more gets further backslashes and nothing else, so they are left out on both sides.
    """
    bare = {secret: {form.replace(b"\\", b"") for form in forms(secret)} for secret in secrets}
    search = _Search({form for found in bare.values() for form in found})
    present = set(search.present(data.replace(b"\\", b"")))
    return {secret for secret, found in bare.items() if not present.isdisjoint(found)}


class _Search:
    """Finds many byte strings at once.

    Thousands of them, each looked for by itself, would read the log thousands of times. Every string of at least
    `_WINDOW` bytes has, wherever it stands, one of four fixed groups of four bytes at a multiple of four; so those
    groups, read as numbers, are looked up in a set, a quarter as many as there are bytes and without a loop in Python.
    Only strings of which a group was seen are searched for. Shorter ones are few.
    """

    def __init__(self, needles: set[bytes]) -> None:
        ordered = sorted(needles, key=lambda needle: (-len(needle), needle))
        self.longest = len(ordered[0]) if ordered else 0
        self._short = tuple(needle for needle in ordered if len(needle) < _WINDOW)
        index: defaultdict[int, list[bytes]] = defaultdict(list)
        for needle in ordered[: len(ordered) - len(self._short)]:
            at = _rare_window(needle)
            for start in range(at, at + _GRAM):
                index[int.from_bytes(needle[start : start + _GRAM], sys.byteorder)].append(needle)
        self._index = dict(index)
        self._grams = frozenset(index)
        self._size = len(ordered)

    def __len__(self) -> int:
        return self._size

    def present(self, data: bytes) -> tuple[bytes, ...]:
        """Those that stand in `data`, the longest first."""
        seen = self._grams.intersection(memoryview(data)[: len(data) & -_GRAM].cast("I")) if self._grams else ()
        maybe = {needle for gram in seen for needle in self._index[gram]}
        found = [needle for needle in (*maybe, *self._short) if needle in data]
        return tuple(sorted(found, key=lambda needle: (-len(needle), needle)))

    def spans(self, data: bytes) -> Spans:
        """Where they stand, in no order, overlapping ones each by itself."""
        found: Spans = []
        for needle in self.present(data):
            start = data.find(needle)
            while start >= 0:
                found.append((start, start + len(needle)))
                start = data.find(needle, start + 1)
        return found


class _Origin:
    """From places in a changed text back to those in the text it was made of."""

    def __init__(self) -> None:
        self._views, self._origins = [0], [0]

    def add(self, view: int, origin: int) -> None:
        """From `view` on, the changed text is what stands from `origin` on."""
        self._views.append(view)
        self._origins.append(origin)

    def back(self, spans: Spans) -> Spans:
        """The same places in the text it was made of."""
        return [(self._back(start), self._back(end - 1) + 1) for start, end in spans]

    def _back(self, position: int) -> int:
        at = bisect_right(self._views, position) - 1
        return self._origins[at] + position - self._views[at]


def _without(data: bytes, pattern: re.Pattern[bytes], instead: bytes) -> tuple[bytes, _Origin]:
    parts: list[bytes] = []
    origin, size, position = _Origin(), 0, 0
    for found in pattern.finditer(data):
        parts += (data[position : found.start()], instead)
        size += found.start() - position + len(instead)
        position = found.end()
        origin.add(size, position)
    parts.append(data[position:])
    return b"".join(parts), origin


def _merged(found: Spans) -> Spans:
    found = sorted(found)
    merged = found[:1]
    for start, end in found[1:]:
        if start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _by_look(data: bytes) -> bytes:
    if b"://" in data and b"@" in data:
        data = _URL_TOKEN.sub(rb"\1" + MASK, _URL_PASSWORD.sub(rb"\1" + MASK, data))
    return _API_TOKEN.sub(MASK, data) if b"lsp_" in data else data


def _rare_window(needle: bytes) -> int:
    """Where the first `_WINDOW` bytes begin that are unlikely in other texts, with capitals, digits and signs; else the
    least likely ones.
    """
    best, most = 0, 0
    for at in range(min(len(needle) - _WINDOW, 256) + 1):
        rarity = _rarity(needle[at : at + _WINDOW])
        if rarity > most:
            best, most = at, rarity
        if most >= _RARE_ENOUGH:  # a phase makes thousands of these before it begins
            break
    return best


def _rarity(window: bytes) -> int:
    return sum(_RARE[byte] for byte in set(window))


#: What five bytes reach that are rare and differ, or four of them and three that are not.
_RARE_ENOUGH = 15

#: How little a byte says: capitals and digits are rare in words, blanks and lower case letters are everywhere.
_RARE = [1 if chr(byte).islower() or chr(byte) in ' _-.="/\\' else 3 for byte in range(256)]


def _can_overlap(first: bytes, second: bytes) -> bool:
    """Whether an occurrence of `second` can lie within one of `first`, or begin in it and reach beyond."""
    if first != second and second in first:
        return True
    if len(first) > LARGE:
        return True  # Perhaps not, but finding out would take its time.
    return any(second.startswith(first[start:]) for start in range(1, len(first)))


def _texts(tree: Any) -> Iterable[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for name, part in tree.items():
            yield name
            yield from _texts(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _texts(part)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield json.dumps(tree)
