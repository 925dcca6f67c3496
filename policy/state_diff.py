"""What differs between two states, as a page may show it. Pure.

It is told as a plan's changes are: two states become the entries of a plan (policy/plan_summary.py), with masks. Hidden
are what terraform marks (``sensitive_attributes`` of an instance, ``sensitive`` of an output) and copies of its longer
strings elsewhere; and, because terraform 1.11 does not mark everything that a provider calls sensitive, values whose
name looks like a secret, and texts that hold one (private keys, addresses with a password, JSON with such names).
Short marked values (under eight characters, numbers) are hidden where they are marked, not where they are copied to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from policy.plan_summary import OutputChange, ResourceChange, summarize
from policy.plan_values import Side, secrets_in
from policy.state_file import Instance, State, counts, digests, instances

_SIMPLE: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "bool": (bool,)}
_LABELS = {"create": "added", "update": "changed", "delete": "removed", "no-op": "changed"}
_TOO_DEEP = "(nested too deep to show)"
_DEEPEST = 40
_START = 8  # no secret that plan_values.secrets_in gives is shorter
_NOTHING: dict[int, set[str]] = {}

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase|code)|secret|token|private[_-]?key|credential|api[_-]?key|auth[_-]?key|access[_-]?key"
    r"|account[_-]?key|shared[_-]?key|signing[_-]?key|encryption[_-]?key|host[_-]?key|psk\b|connection[_-]?string"
    r"|kube_?config|user_?data|cert(ificate)?_?key|client_?key",
    re.IGNORECASE,
)
#: Names with such a word in them that say something about a secret and hold none.
_ABOUT = re.compile(
    r"(_arn|_length|_enabled|_count|_version|_expiration|_ttl|_rotation)$|^access_key_id$", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]*:[^@\s/]+@"
    r"|\"[^\"]{0,60}(?:password|passwd|secret|token|private_?key|api_?key|access_?key)[^\"]{0,60}\\?\"\s*:",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class StateDiff:
    """Two states compared; nothing in it is sensitive. ``counts`` are those of managed instances."""

    counts: dict[str, int]
    resources: tuple[ResourceChange, ...]
    outputs: tuple[OutputChange, ...]

    @property
    def nothing(self) -> bool:
        """Neither a resource nor an output differs."""
        return not self.resources and not self.outputs


Hide = Callable[[str], str]


def compare(before: State | None, after: State, hide: Hide = str) -> StateDiff:
    """What changed from ``before`` (None: from nothing) to ``after``, by address; both from state_file.parse.

    ``hide`` takes known secrets out of a text; a value that it changes is hidden whole.
    """
    before = before or {}
    sides = [{one.address: one for one in instances(state)} for state in (before, after)]
    outputs = [before.get("outputs") or {}, after.get("outputs") or {}]
    secrets = _Secrets({*_secrets(sides[0].values(), outputs[0]), *_secrets(sides[1].values(), outputs[1])})
    entries = [
        _entry(address, sides[0].get(address), sides[1].get(address), secrets, hide)
        for address in sorted({*sides[0], *sides[1]})
        if _differ(sides[0].get(address), sides[1].get(address))
    ]
    changes = {
        name: _output_change(name, outputs[0].get(name), outputs[1].get(name), secrets, hide)
        for name in sorted({*outputs[0], *outputs[1]})
        if outputs[0].get(name) != outputs[1].get(name)
    }
    # No-ops are left out of a plan; of those that differ in nothing to show (tainted), it is told by the label.
    summary = summarize({"resource_changes": entries, "output_changes": changes})
    labelled = (_labelled(change, sides[0].get(change.address), sides[1].get(change.address))
                for change in summary.resources)  # fmt: skip
    shown = tuple(replace(change, address=hide(change.address)) for change in labelled)
    return StateDiff(counts(digests(before), digests(after)), shown, summary.outputs)


def _differ(one: Instance | None, other: Instance | None) -> bool:
    if one is None or other is None:
        return True
    names = ("attributes", "attributes_flat", "sensitive_attributes", "status")
    return any(one.data.get(name) != other.data.get(name) for name in names)


def _labelled(change: ResourceChange, before: Instance | None, after: Instance | None) -> ResourceChange:
    label = _LABELS[change.op]
    if before is not None and after is not None and before.tainted != after.tainted:
        label += ", tainted" if after.tainted else ", no longer tainted"
    elif before is not None and after is not None and not change.attributes:
        label = "marked differently as sensitive"
    return replace(change, label=label)


def _entry(
    address: str, before: Instance | None, after: Instance | None, secrets: _Secrets, hide: Hide
) -> dict[str, Any]:
    actions = "create" if before is None else "delete" if after is None else "update"
    one, other = _side(before, secrets, hide), _side(after, secrets, hide)
    deposed = any(side is not None and side.deposed for side in (before, after))
    return {"address": address, "deposed": "left" if deposed else None, "change": _change(actions, one, other)}


def _output_change(name: str, before: Any, after: Any, secrets: _Secrets, hide: Hide) -> dict[str, Any]:
    actions = "create" if before is None else "delete" if after is None else "update"
    return _change(actions, _output_side(name, before, secrets, hide), _output_side(name, after, secrets, hide))


def _change(actions: str, before: Side, after: Side) -> dict[str, Any]:
    return {
        "actions": [actions],
        "before": before.value, "before_sensitive": before.sensitive,
        "after": after.value, "after_sensitive": after.sensitive,
    }  # fmt: skip


def _side(instance: Instance | None, secrets: _Secrets, hide: Hide) -> Side:
    """The attributes of an instance with the mask of all that is hidden of them."""
    if instance is None:
        return Side(None)
    value, marked = _marked(instance)
    return Side(value, _either(marked, _mask(value, secrets.within(value), _needed(value, hide))))


def _output_side(name: str, output: Any, secrets: _Secrets, hide: Hide) -> Side:
    if output is None:
        return Side(None)
    value = _plain(output.get("value"))
    if output.get("sensitive") or _looks_secret(name):
        return Side(value, True)
    return Side(value, _mask(value, secrets.within(value), _needed(value, hide)))


def _secrets(found: Iterable[Instance], outputs: dict[str, Any]) -> Iterator[str]:
    """The longer strings that terraform itself marks, to find their copies."""
    for instance in found:
        if instance.data.get("sensitive_attributes"):
            yield from secrets_in(Side(*_marked(instance)))
    for output in outputs.values():
        if output.get("sensitive"):
            yield from secrets_in(Side(_plain(output.get("value")), True))


def _marked(instance: Instance) -> tuple[Any, Any]:
    """The attributes, and the mask of those that terraform marks."""
    raw = instance.data.get("attributes")
    value = _plain(raw if raw is not None else instance.data.get("attributes_flat"))
    mask: Any = False
    for path in instance.data.get("sensitive_attributes") or []:
        mask = _either(mask, _along(value, path if isinstance(path, list) else [path]))
    return value, mask


def _along(value: Any, path: list[Any]) -> Any:
    """The mask that hides what a path of terraform leads to; all that was reached where it leads nowhere.

    Steps: ``{"type": "get_attr", "value": name}``, ``{"type": "index", "value": {"value": key, "type": …}}``.
    """
    if not path:
        return True
    step = path[0].get("value") if isinstance(path[0], dict) else None
    key = step.get("value") if isinstance(step, dict) else step
    if isinstance(value, dict) and isinstance(key, str) and key in value:
        return {name: _along(value[name], path[1:]) if name == key else False for name in value}
    if isinstance(value, list) and isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(value):
        return [_along(part, path[1:]) if at == key else False for at, part in enumerate(value)]
    return True


def _either(one: Any, other: Any) -> Any:
    """Hidden by either of two masks of one value."""
    if one is True or other is True:
        return True
    if one is False or other is False:
        return other if one is False else one
    if isinstance(one, dict):
        return {name: _either(one[name], other[name]) for name in one}
    return [_either(*parts) for parts in zip(one, other, strict=True)]


def _mask(value: Any, secrets: list[str], hide: Hide | None) -> Any:
    """The mask of what looks like a secret, holds one of ``secrets``, or is changed by ``hide``."""
    if hide is not None and isinstance(value, str | int | float) and not isinstance(value, bool):
        text = value if isinstance(value, str) else json.dumps(value)
        if hide(text) != text:
            return True
    if isinstance(value, str):
        return any(secret in value for secret in secrets) or _SECRET_TEXT.search(value) is not None
    if isinstance(value, list):
        return [_mask(part, secrets, hide) for part in value]
    if not isinstance(value, dict):
        return False
    if any(secret in name for name in value for secret in secrets):
        return True
    if hide is not None and any(hide(name) != name for name in value):
        return True
    # Of a list of named values, such as the environment of a container: {"name": "DB_PASSWORD", "value": …}
    named = any(isinstance(value.get(word), str) and _looks_secret(value[word]) for word in ("name", "key"))
    return {
        name: True if _hides(name, part) or (named and name == "value") else _mask(part, secrets, hide)
        for name, part in value.items()
    }


def _needed(value: Any, hide: Hide) -> Hide | None:
    """``hide``, or None where it would change nothing: one look at all texts together, for large states."""
    text = "\n".join(_texts(value))
    return hide if hide(text) != text else None


def _hides(name: str, value: Any) -> bool:
    return _looks_secret(name) and value is not None and not isinstance(value, bool)


def _looks_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and _ABOUT.search(name) is None


class _Secrets:
    """Finds any of many secrets in a text in one pass over it: a large state can have thousands of both."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # first characters → length → the secrets that begin so and are so long
        self._starts: dict[str, dict[int, set[str]]] = {}
        for secret in secrets:
            self._starts.setdefault(secret[:_START], {}).setdefault(len(secret), set()).add(secret)

    def within(self, value: Any) -> list[str]:
        """Those that stand anywhere in the texts of ``value``."""
        found: set[str] = set()
        for text in _texts(value) if self._starts else ():
            for at in range(len(text) - _START + 1):
                for length, secrets in self._starts.get(text[at : at + _START], _NOTHING).items():
                    if (part := text[at : at + length]) in secrets:
                        found.add(part)
        return sorted(found)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _plain(value: Any, depth: int = 0) -> Any:
    """The value as a configuration sees it: where the type is open, terraform writes ``{"value": …, "type": …}``."""
    if depth > _DEEPEST:
        return _TOO_DEEP
    if isinstance(value, dict):
        if value.keys() == {"value", "type"} and _is_type(value["type"], value["value"]):
            return _plain(value["value"], depth + 1)
        return {str(name): _plain(part, depth + 1) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, depth + 1) for part in value]
    return value


def _is_type(kind: Any, value: Any) -> bool:
    """Whether ``kind`` is a type as terraform writes it (cty's JSON) that ``value`` can have."""
    if isinstance(kind, str):
        return kind == "dynamic" or (kind in _SIMPLE and (value is None or isinstance(value, _SIMPLE[kind])))
    if not isinstance(kind, list) or len(kind) < 2:
        return False
    if value is None:
        return kind[0] in ("object", "map", "list", "set", "tuple")
    if kind[0] == "object":
        return isinstance(value, dict) and isinstance(kind[1], dict) and kind[1].keys() == value.keys()
    if kind[0] == "map":
        return isinstance(value, dict)
    return kind[0] in ("list", "set", "tuple") and isinstance(value, list)
