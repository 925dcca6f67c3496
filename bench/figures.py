"""A measured figure: its value beside its target, as a line of JSON and as a row of a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """``target`` is the most that ``value`` may be, or the least with ``at_least``; None for one that is only told.

    ``n`` counts what was measured; ``spread`` is its range in words, in the same unit.
    """

    figure: str
    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False
    n: int = 1
    spread: str = ""
    detail: dict[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def line(self) -> str:
        """One line of JSON."""
        found: dict[str, object] = {"figure": self.figure, "what": self.what, "value": _round(self.value)}
        found |= {"unit": self.unit, "target": self.goal, "met": self.met, "n": self.n, "spread": self.spread}
        return json.dumps(found | ({"detail": self.detail} if self.detail else {}), ensure_ascii=False)

    @property
    def goal(self) -> str | None:
        """The target in words."""
        if self.target is None:
            return None
        return f"{'≥' if self.at_least else '≤'} {_round(self.target):g}"


#: A module's way to hand over a figure as soon as it has it.
Tell = Callable[[Figure], None]


def table(figures: Iterable[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [("", "figure", "value", "target", "", "n", "spread"), ("---",) * 7]
    words = {True: "met", False: "**missed**", None: ""}
    for one in figures:
        value = f"{_round(one.value):g} {one.unit}".strip()
        rows.append((one.figure, one.what, value, one.goal or "", words[one.met], str(one.n), one.spread))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def spread(values: Sequence[float]) -> str:
    """From the least to the greatest."""
    return f"{_round(min(values)):g} to {_round(max(values)):g}"


median = statistics.median


def pair_ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Each of the first over its neighbour of the second: what changed on the machine between pairs cancels out."""
    return [a / b for a, b in zip(first, second, strict=True)]


def _round(value: float) -> float:
    """Three digits that count."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, max(2 - math.floor(math.log10(abs(value))), 0))
