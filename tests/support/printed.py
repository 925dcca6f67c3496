"""What a local-exec printed, line by line, out of a run's log."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

_LINE = re.compile(r"(?P<resource>\S+) \(local-exec\): (?P<text>.*)")


def lines(log: str, whole: re.Pattern[str]) -> Iterator[tuple[str, re.Match[str]]]:
    """The resource and the match of each printed line that `whole` describes from its beginning to its end.

    Terraform hands a line on in parts when its rest is 100 ms late, as on a busy machine (go-linereader, which its
    local-exec reads with); none of it is lost, so the parts are joined here.
    """
    begun: dict[str, str] = defaultdict(str)
    for line in log.splitlines():
        if (found := _LINE.search(line)) is None:
            continue
        resource, text = found["resource"], found["text"]
        match = whole.fullmatch(begun[resource] + text) or whole.fullmatch(text)
        if match is None:
            begun[resource] += text
        else:
            begun[resource] = ""
            yield resource, match
