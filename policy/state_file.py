"""Terraform's state file, format 4 (terraform 1.11, internal/states/statefile/version4.go). Pure.

A state is kept byte by byte as terraform wrote it. Only a rollback writes one anew, and only its serial and lineage:
to parse and dump the whole would change numbers that Python cannot hold exactly.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]

FORMAT = 4

#: Bounds that every database column holds; terraform counts serials from 1 in steps of one.
MOST_SERIAL = 2**62
_LONGEST_LINEAGE = 100

#: What terraform makes of them: a UUID, and 1.11.4, 1.12.0-rc1 or 1.12.0-alpha20250101.
_LINEAGE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION = re.compile(r"\d{1,3}(\.\d{1,3}){1,2}(-[a-z]{1,5}\d{0,8})?")

#: Before the digest of a lineage that is no UUID.
_DIGEST = "sha256:"

#: Deeper structures than terraform ever writes are refused before anything walks them.
_DEEPEST = 200

#: The escape of half a character, which no page can show when the other half is missing.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_NOT_UTF8 = "That is not a state file as Terraform reads it: save it as UTF-8 without a byte order mark."


class NotAState(ValueError):
    """It is no state of format 4; the text is a sentence for a person."""


@dataclass(frozen=True)
class Facts:
    """What terraform writes into a state (format 4): its place in the history and what it holds.

    ``lineage`` is the state's own; beside the state it stands as :func:`shown_lineage` gives it.
    """

    serial: int
    lineage: str
    terraform_version: str
    resources: int
    md5: str


def parse(content: bytes) -> State:
    """The state in ``content``. Raises :class:`NotAState`."""
    state = _loaded(content)
    if not isinstance(state, dict) or "encrypted_data" in state:
        raise NotAState("That is not a state file of Terraform, or it is encrypted.")
    if state.get("version") != FORMAT:
        raise NotAState(f"That is not a state of format {FORMAT}, which Terraform has written since 0.12.")
    serial, lineage = state.get("serial"), state.get("lineage")
    if not isinstance(serial, int) or isinstance(serial, bool) or not 0 <= serial <= MOST_SERIAL:
        raise NotAState("The state has no serial.")
    if not isinstance(lineage, str) or not 0 < len(lineage) <= _LONGEST_LINEAGE:
        raise NotAState("The state has no lineage.")
    if not _well_formed(state) or (_SURROGATE.search(content) and not _is_text(state)):
        raise NotAState("The state’s resources or outputs are not in the form that Terraform writes.")
    return state


def facts(content: bytes) -> Facts | None:
    """The facts of a state file, None while it is empty or half written.

    It takes more than :func:`parse`: what a run left is kept although terraform may not read it again.
    """
    try:
        state = json.loads(content)
        resources = sum(
            len(resource.get("instances", ()))
            for resource in state.get("resources") or ()
            if resource.get("mode") == "managed"
        )
        return Facts(
            serial=int(state["serial"]),
            lineage=str(state["lineage"])[:_LONGEST_LINEAGE],
            terraform_version=shown_version(str(state.get("terraform_version", ""))),
            resources=resources,
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _loaded(content: bytes) -> Any:
    """The JSON in ``content``, as strictly as terraform reads it: json.loads would guess UTF-16 and skip a mark."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise NotAState(_NOT_UTF8) from None
    if text.startswith("\ufeff"):
        raise NotAState(_NOT_UTF8)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NotAState("That is not a state file: it is no JSON.") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_text(state: State) -> bool:
    try:
        json.dumps(state, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _well_formed(state: State) -> bool:
    resources, outputs = state.get("resources") or [], state.get("outputs") or {}
    if not isinstance(resources, list) or not isinstance(outputs, dict):
        return False
    if not all(isinstance(output, dict) for output in outputs.values()):
        return False
    return all(_well_formed_resource(resource) for resource in resources) and not _deeper_than(state, _DEEPEST)


def _well_formed_resource(resource: Any) -> bool:
    if not isinstance(resource, dict):
        return False
    instances = resource.get("instances") or []
    marks = all(isinstance(one.get("sensitive_attributes") or [], list) for one in instances if isinstance(one, dict))
    named = marks and all(isinstance(resource.get(name), str) for name in ("mode", "type", "name"))
    return named and isinstance(instances, list) and all(isinstance(one, dict) for one in instances)


def _deeper_than(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return False
    return True


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class Instance:
    """One resource instance of a state: its address as terraform prints it, and what is kept of it."""

    address: str
    managed: bool
    deposed: bool
    data: State

    @property
    def tainted(self) -> bool:
        """Terraform will replace it with the next apply."""
        return self.data.get("status") == "tainted"


def instances(state: State) -> Iterator[Instance]:
    """Every resource instance, in the state's order. ``deposed`` ones are left over of a replacement."""
    for resource in state.get("resources") or []:
        prefix = f"{resource['module']}." if resource.get("module") else ""
        data = "data." if resource["mode"] == "data" else ""
        for one in resource.get("instances") or []:
            key, deposed = one.get("index_key"), one.get("deposed")
            index = "" if key is None else f"[{json.dumps(key, ensure_ascii=False)}]"
            left = f" (deposed {deposed})" if deposed else ""
            address = f"{prefix}{data}{resource['type']}.{resource['name']}{index}{left}"
            yield Instance(address, resource["mode"] == "managed", bool(deposed), one)


def digests(state: State) -> dict[str, bytes]:
    """For each managed instance a digest of what it holds, by address. Nothing of the values leaves here."""
    return {one.address: _digest(one) for one in instances(state) if one.managed}


def _digest(instance: Instance) -> bytes:
    held = [instance.data.get("attributes"), instance.data.get("attributes_flat"), instance.tainted]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).digest()


def counts(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, int]:
    """How many instances were added, changed and removed between the digests of two states."""
    return {
        "add": len(after.keys() - before.keys()),
        "change": sum(before[address] != after[address] for address in before.keys() & after.keys()),
        "destroy": len(before.keys() - after.keys()),
    }


def same(one: State, other: State) -> bool:
    """Whether two states differ in nothing but the terraform version, which terraform renews without a new serial."""
    return {**one, "terraform_version": None} == {**other, "terraform_version": None}


def shown_lineage(lineage: str) -> str:
    """A lineage as it can stand beside a state in clear: what terraform made, else a digest of it.

    Whatever writes a state can put a secret there, and it says no more than whether two states belong together.
    """
    return (
        lineage
        if _LINEAGE.fullmatch(lineage)
        else _DIGEST + hashlib.sha256(lineage.encode("utf-8", "surrogatepass")).hexdigest()
    )


def same_lineage(shown: str, lineage: str) -> bool:
    """Whether a state with ``lineage`` belongs to one whose lineage is shown so; older versions show any as it is."""
    return shown == shown_lineage(lineage) or (shown == lineage and not is_digest(shown))


def is_digest(shown: str) -> bool:
    """Whether what is shown of a lineage is not the lineage itself."""
    return shown.startswith(_DIGEST)


def shown_version(version: str) -> str:
    """The terraform version as it can stand beside a state in clear; empty where it is none."""
    return version if _VERSION.fullmatch(version) else ""


def renumbered(content: bytes, serial: int, lineage: str) -> bytes:
    """The same state with another serial and lineage; every other byte stays. Raises :class:`NotAState`."""
    parse(content)
    text = content.decode()
    spans = dict(_top_level(text))
    values = {"serial": serial, "lineage": lineage}
    for name in sorted(values, key=lambda name: spans[name], reverse=True):
        begin, end = spans[name]
        text = text[:begin] + json.dumps(values[name]) + text[end:]
    return text.encode()


def _top_level(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where the values of a JSON object's own keys begin and end."""
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        begin = _skip(text, text.index(":", at) + 1)
        _, end = decoder.raw_decode(text, begin)
        yield key, (begin, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
