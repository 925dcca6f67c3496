"""How far an apply got, as terraform's own lines tell it. Pure.

The lines are those of terraform 1.11's plain output ("ADDRESS: Creating...", "ADDRESS: Creation complete after 1s").
They are read for people, never to decide what is in a state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from policy.run_errors import plain

#: Names, dots and indexes; an index can hold anything.
_ADDRESS = r"(?P<address>[\w.-]+(?:\[(?:\d+|\"(?:[^\"\\]|\\.)*\")\][\w.-]*)*)"
_BEGUN = re.compile(_ADDRESS + r": (?:Creating|Modifying|Destroying)\.\.\.(?: \[id=.*\])?")
_DONE = re.compile(_ADDRESS + r": (?:Creation|Modifications|Destruction) complete after \S+(?: \[id=.*\])?")
_ERROR = re.compile(r"[│╷\s]*with " + _ADDRESS + ",")

#: How many addresses are kept for the page.
MOST = 50


@dataclass
class Progress:
    """Addresses of resources, in the order in which terraform named them.

    A resource that is replaced is destroyed and then created: it counts as done when the last of its steps is.
    """

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    """Begun, and no answer seen: they may or may not have been changed."""


def progress(lines: Iterable[bytes]) -> Progress:
    """What the lines of an apply's log tell."""
    state: dict[str, str] = {}
    for raw in lines:
        # Most lines of a long log are something else, and looking costs a hundredth of matching.
        if b"..." not in raw and b"complete after" not in raw and b"with " not in raw:
            continue
        line = plain(raw[:2000].decode(errors="replace")).rstrip()
        if found := _BEGUN.fullmatch(line):
            state[found["address"]] = "unsure"
        elif found := _DONE.fullmatch(line):
            state[found["address"]] = "done"
        elif (found := _ERROR.fullmatch(line)) and state.get(found["address"]) == "unsure":
            state[found["address"]] = "failed"
    answer = Progress()
    for address, how in state.items():
        getattr(answer, how).append(address)
    return answer
