"""Exact-value redaction of a log before it is stored.

Terraform masks what a configuration calls sensitive, but a provisioner, a provider's error or an
`output` can still print a value. Whatever value the run was given as a secret is replaced, in every
form in which terraform prints it: as is, escaped as in a quoted HCL or JSON string, and in a URL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "•••".encode()
MINIMUM = 4
"""Shorter values are left alone: replacing every "no" or "1" of a log would make it unreadable."""

LARGE = 4096


class Redactor:
    """Replaces secrets in bytes with `MASK`. Only values of at least `MINIMUM` characters count.

    A multi-line secret is taken line by line (each without its indentation, which terraform changes),
    because a log is read line by line. `longest` is the length in bytes of the longest form looked for.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        needles = {form for secret in secrets for form in _forms(secret)}
        self._needles = sorted(needles, key=len, reverse=True)
        self._known: dict[tuple[bytes, ...], bool] = {}
        self.longest = len(self._needles[0]) if self._needles else 0

    def __repr__(self) -> str:
        return f"Redactor({len(self._needles)} forms)"

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where secrets stand in `data`, as (start, end), overlapping ones merged, in order.

        Searching for each value by itself and merging hides also the rest of a value that overlaps
        another one, which a regular expression's alternation would leave standing; and `bytes.find`
        reads several times faster than `re`.
        """
        found: list[tuple[int, int]] = []
        for needle in self._present(data):
            start = data.find(needle)
            while start >= 0:
                found.append((start, start + len(needle)))
                start = data.find(needle, start + 1)
        if len(found) < 2:
            return found
        found.sort()
        merged = [found[0]]
        for start, end in found[1:]:
            if start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def apply(self, data: bytes) -> bytes:
        """`data` (a line, or several whole lines) without the secrets."""
        present = self._present(data)
        if not present:
            return data
        if self._independent(present):
            # The same result in a fraction of the time, for a secret that stands in every line.
            for needle in present:
                data = data.replace(needle, MASK)
            return data
        parts: list[bytes] = []
        position = 0
        for start, end in self.spans(data):
            parts += (data[position:start], MASK)
            position = end
        parts.append(data[position:])
        return b"".join(parts)

    def _present(self, data: bytes) -> tuple[bytes, ...]:
        escapes, percents = b"\\" in data, b"%" in data
        return tuple(
            needle
            for needle in self._needles
            if (escapes or b"\\" not in needle) and (percents or b"%" not in needle) and needle in data
        )

    def _independent(self, needles: tuple[bytes, ...]) -> bool:
        """Whether no two occurrences of these values (or of one of them) can ever overlap."""
        if needles not in self._known:
            if len(self._known) > 100:
                self._known.clear()
            texts = (*needles, MASK)
            self._known[needles] = not any(_can_overlap(a, b) for a in texts for b in texts if not a == b == MASK)
        return self._known[needles]


class HideKeys(Redactor):
    """Hides, beside the given values, whatever could be a temporary key or token of AWS.

    For a phase that was taken over: what its credentials were is known to nobody any more. Those are 40 and more
    characters of Base64 in a row, of both cases; digests in hex are left alone.
    """

    _KEY = re.compile(rb"[A-Za-z0-9/+=%\\]{40,}")

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__(secrets)
        self.longest = max(self.longest, LARGE)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """As for given values; the two kinds may overlap."""
        keys = [found.span() for found in self._KEY.finditer(data) if _both_cases(found[0])]
        return sorted([*super().spans(data), *keys])

    def apply(self, data: bytes) -> bytes:
        """`data` without the secrets, and without what could be one."""
        return self._KEY.sub(lambda found: MASK if _both_cases(found[0]) else found[0], super().apply(data))


def _both_cases(text: bytes) -> bool:
    return text != text.lower() and text != text.upper()


class HideAll(Redactor):
    """Shows nothing at all, for when it is not known what has to be hidden."""

    def __init__(self) -> None:
        super().__init__(())

    def apply(self, data: bytes) -> bytes:
        """Nothing."""
        return b""


def _can_overlap(first: bytes, second: bytes) -> bool:
    """Whether an occurrence of `second` can lie within one of `first`, or begin in it and reach beyond."""
    if first != second and second in first:
        return True
    if len(first) > LARGE:
        return True  # Perhaps not, but finding out would take its time.
    return any(second.startswith(first[start:]) for start in range(1, len(first)))


def _forms(secret: str) -> Iterable[bytes]:
    for part in re.split(r"[\r\n]+", secret):
        line = part.strip()
        if len(line) < MINIMUM:
            continue
        # surrogatepass: a lone surrogate is a legal str and must not stop a run.
        yield line.encode("utf-8", "surrogatepass")
        yield json.dumps(line, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
        yield quote(line, safe="", errors="replace").encode()
