"""Values of a plan as text, masked by Terraform's own masks, and the differences between two of them.

A mask has the shape of its value: true hides all of it, a list or a map hides parts, anything else nothing.
(Terraform, "JSON Output Format", Change Representation: before_sensitive, after_sensitive, after_unknown.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SENSITIVE = "(sensitive value)"
UNKNOWN = "(known after apply)"
LONGEST_TEXT = 2_000  # characters of one value
_DEEPEST = 40
_SHORTEST_SECRET = 8

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class _Marker(str):
    """A text that stands for a value, so that it is not quoted."""

    __slots__ = ()


_HIDDEN = _Marker(SENSITIVE)
_LATER = _Marker(UNKNOWN)
_TOO_DEEP = _Marker("(nested too deep to show)")


@dataclass(frozen=True)
class AttributeChange:
    """One attribute: its path ("tags.Name"), "+", "~" or "-", and both sides as text (None: not there)."""

    path: str
    op: str
    before: str | None
    after: str | None
    forces_replacement: bool = False


@dataclass(frozen=True)
class Side:
    """A value before or after, with its masks."""

    value: Any
    sensitive: Any = False
    unknown: Any = False

    def child(self, key: str | int) -> Side:
        """One element, each mask followed along; a missing one is null."""
        return Side(_element(self.value, key), _mask(self.sensitive, key), _mask(self.unknown, key))

    @property
    def hidden(self) -> bool:
        """All of it is sensitive, or a mask of another shape leaves open which part is."""
        if isinstance(self.sensitive, dict | list):
            other_shape = self.value is not None and type(self.sensitive) is not type(self.value)
            return other_shape and any_true(self.sensitive)
        return bool(self.sensitive)

    @property
    def absent(self) -> bool:
        """Null, and not going to be known later."""
        return self.value is None and not any_true(self.unknown)


def any_true(mask: Any) -> bool:
    """True when a mask hides or marks anything."""
    if isinstance(mask, dict):
        return any(any_true(part) for part in mask.values())
    if isinstance(mask, list):
        return any(any_true(part) for part in mask)
    return bool(mask)


def _element(value: Any, key: str | int) -> Any:
    if isinstance(value, dict) and isinstance(key, str):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _mask(mask: Any, key: str | int) -> Any:
    if not isinstance(mask, dict | list):
        return bool(mask)
    return _element(mask, key) or False


def secrets_in(side: Side) -> Iterator[str]:
    """The longer strings that a mask hides.

    A provider can copy a sensitive value into an attribute that Terraform does not mark (`terraform_data`
    copies `input` to `output`), so these are hidden wherever they stand alone.
    """
    if side.hidden:
        yield from _strings(side.value)
    elif isinstance(side.value, dict):
        for key in side.value:
            yield from secrets_in(side.child(key))
    elif isinstance(side.value, list):
        for index in range(len(side.value)):
            yield from secrets_in(side.child(index))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str) and len(value) >= _SHORTEST_SECRET:
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _masked(side: Side, secrets: frozenset[str], depth: int = 0) -> Any:
    """The value with markers where it is hidden or not known yet."""
    value = side.value
    if side.hidden:
        return _HIDDEN
    if side.unknown is True:
        return _LATER
    if depth > _DEEPEST:
        return _TOO_DEEP
    if isinstance(value, str) and value in secrets:
        return _HIDDEN
    if isinstance(value, dict) or (value is None and isinstance(side.unknown, dict) and any_true(side.unknown)):
        return {key: _masked(side.child(key), secrets, depth + 1) for key in _keys(side)}
    if isinstance(value, list) or (value is None and isinstance(side.unknown, list) and any_true(side.unknown)):
        return [_masked(side.child(index), secrets, depth + 1) for index in range(_length(side))]
    return value


def _keys(*sides: Side) -> list[str]:
    """The keys of maps, in order: those of the values, and those that are known only later."""
    keys: dict[str, None] = {}
    for side in sides:
        keys.update(dict.fromkeys(side.value or {}))
        if isinstance(side.unknown, dict):
            keys.update(dict.fromkeys(key for key, later in side.unknown.items() if any_true(later)))
    return sorted(keys)


def _length(side: Side) -> int:
    unknown = side.unknown if isinstance(side.unknown, list) else []
    return max(len(side.value or []), len(unknown))


def _literal(value: Any) -> str:
    if isinstance(value, _Marker):
        return str(value)
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_literal(part)}" for key, part in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_literal(part) for part in value)}]"
    return json.dumps(value, ensure_ascii=False)


def text_of(side: Side, secrets: frozenset[str] = frozenset()) -> str:
    """A value as one line of HCL-like text; hidden parts never appear, long text is cut and says so."""
    text = _literal(_masked(side, secrets))
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


def _path(parent: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{parent}[{key}]"
    if not _IDENTIFIER.fullmatch(key):
        return f"{parent}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{parent}.{key}" if parent else key


def differences(
    before: Side, after: Side, secrets: frozenset[str], path: str = "", depth: int = 0
) -> Iterator[AttributeChange]:
    """What differs between two values, attribute by attribute; hidden on one side is hidden on both."""
    if before.value == after.value and not any_true(after.unknown):
        return
    if before.hidden or after.hidden:
        before, after = Side(before.value, True), Side(after.value, True, after.unknown)
    elif _both(dict, before, after) and after.unknown is not True and depth < _DEEPEST:
        for key in _keys(before, after):
            yield from differences(before.child(key), after.child(key), secrets, _path(path, key), depth + 1)
        return
    elif _both(list, before, after):
        hides = any_true(before.sensitive) or any_true(after.sensitive)
        if hides and before.sensitive != after.sensitive:
            # Elements move: a part hidden at its new place must not show at its old one.
            before, after = Side(before.value, True), Side(after.value, True, after.unknown)
        elif _length(before) == _length(after) and after.unknown is not True and depth < _DEEPEST:
            for index in range(_length(after)):
                child = _path(path, index)
                yield from differences(before.child(index), after.child(index), secrets, child, depth + 1)
            return
    op = "+" if before.absent else "-" if after.absent else "~"
    yield AttributeChange(
        path or "(all attributes)",
        op,
        None if before.absent else text_of(before, secrets),
        None if after.absent else text_of(after, secrets),
    )


def _both(kind: type, before: Side, after: Side) -> bool:
    return isinstance(before.value, kind) and isinstance(after.value, kind)
