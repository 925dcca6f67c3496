"""What a local-exec printed, line by line, out of a run's log."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import product

_LINE = re.compile(r"(?P<resource>\S+) \(local-exec\): (?P<text>.*)")

#: Of one line; the rest of a line comes at once, but for a machine that stands still.
_MOST_PARTS = 4


def lines(log: str, whole: re.Pattern[str]) -> Iterator[tuple[str, re.Match[str]]]:
    """The resource and the match of each printed line that `whole` describes from its beginning to its end.

    Terraform hands a line on in parts when its rest is 100 ms late, as on a busy machine (go-linereader, which its
    local-exec reads with), each without the spaces at its end. Nothing else of it is lost, so the parts are joined.
    """
    begun: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for line in log.splitlines():
        if (found := _LINE.search(line)) is None:
            continue
        resource, text = found["resource"], found["text"]
        parts = (*begun[resource], text)[-_MOST_PARTS:]
        match = next(filter(None, map(whole.fullmatch, _joined(parts))), None) or whole.fullmatch(text)
        begun[resource] = () if match else parts
        if match:
            yield resource, match


def _joined(parts: tuple[str, ...]) -> Iterator[str]:
    """What was printed, in parts: at each join there may have been a space."""
    for spaces in product(("", " "), repeat=len(parts) - 1):
        yield "".join(part + space for part, space in zip(parts, (*spaces, ""), strict=True))
