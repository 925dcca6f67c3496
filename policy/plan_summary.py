"""What a plan would do: counts from Terraform's closing line, and the changes from `terraform show -json`.

The JSON holds sensitive values in clear; only what `policy.plan_values` lets through leaves this module.
Formats: terraform 1.11's and OpenTofu's console output; "JSON Output Format", format_version 1.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from policy.plan_values import AttributeChange, Side, differences, secrets_in, text_of

FORMAT = 1

_ANSI = re.compile(r"\x1b\[[0-9;:]*m")
_PLAN_LINE = re.compile(r"^Plan: (\d+ to [^\r\n]*)", re.MULTILINE)
_APPLY_LINE = re.compile(r"^(?:Apply|Destroy) complete! Resources: ([^\r\n]*)", re.MULTILINE)
_AMOUNT = re.compile(r"(\d{1,9}) (?:to )?(import|add|chang|destroy|forg[eo]t)")
_ONLY_OUTPUTS = re.compile(r"^Changes to Outputs:", re.MULTILINE)
_NO_CHANGES = re.compile(r"^No changes\.", re.MULTILINE)
_FIELDS = {"import": "imported", "add": "add", "chang": "change", "destroy": "destroy", "forget": "forgotten"}


@dataclass(frozen=True)
class Counts:
    """How many resources a plan would touch, or an apply did."""

    add: int = 0
    change: int = 0
    destroy: int = 0
    imported: int = 0
    forgotten: int = 0
    outputs_changed: bool = False

    @property
    def nothing(self) -> bool:
        """True for "No changes."."""
        return self == Counts()


def counts_from_log(text: str) -> Counts | None:
    """The counts in the output of `plan` or `apply`; None when it has no closing line.

    Only lines that begin at the margin count, and of those the first: attributes, diagnostics and the
    output of provisioners are indented or prefixed, while outputs printed after an apply are not.
    """
    text = _ANSI.sub("", text)
    match = _APPLY_LINE.search(text) or _PLAN_LINE.search(text)
    if match:
        found = {_FIELDS[word.replace("forgot", "forget")]: int(number) for number, word in _AMOUNT.findall(match[1])}
        return Counts(outputs_changed=bool(_ONLY_OUTPUTS.search(text)), **found)
    if _ONLY_OUTPUTS.search(text):
        return Counts(outputs_changed=True)
    return Counts() if _NO_CHANGES.search(text) else None


# By the plan's list of actions: name, symbol, words.
_OPERATIONS: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("create",): ("create", "+", "create"),
    ("update",): ("update", "~", "update in place"),
    ("delete",): ("delete", "-", "destroy"),
    ("delete", "create"): ("replace", "-/+", "replace"),
    ("create", "delete"): ("replace", "+/-", "replace"),
    ("read",): ("read", "<=", "read"),
    ("forget",): ("forget", ".", "forget"),
    ("create", "forget"): ("replace", "+/.", "replace, forget the old one"),
    ("no-op",): ("no-op", " ", "no change"),
}
_UNKNOWN_OPERATION = ("other", "?", "other")


@dataclass(frozen=True)
class ResourceChange:
    """One resource: its address, what happens to it, and the attributes that differ."""

    address: str
    op: str
    symbol: str
    label: str
    attributes: tuple[AttributeChange, ...] = ()
    unchanged: int = 0
    imported: bool = False
    moved_from: str | None = None
    deposed: bool = False

    @property
    def unchanged_text(self) -> str:
        """The line that stands for what is not listed; "" when everything is."""
        if not self.unchanged:
            return ""
        return f"({self.unchanged} unchanged attribute{'' if self.unchanged == 1 else 's'})"


@dataclass(frozen=True)
class OutputChange:
    """One output value of the configuration."""

    name: str
    op: str
    symbol: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Summary:
    """A plan as its page shows it; nothing in it is sensitive."""

    counts: Counts
    resources: tuple[ResourceChange, ...] = ()
    outputs: tuple[OutputChange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dict of what is stored; `from_json` reads it back."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Summary:
        """The summary that `to_json` wrote, also after a trip through JSON text.

        :raises ValueError: it is not one, or of another format.
        """
        if data.get("format") != FORMAT:
            raise ValueError("not a plan summary of this format")
        try:
            return cls(
                Counts(**data["counts"]),
                tuple(
                    ResourceChange(
                        **{
                            **entry,
                            "attributes": tuple(AttributeChange(**part) for part in entry["attributes"]),
                        }
                    )
                    for entry in data["resources"]
                ),
                tuple(OutputChange(**entry) for entry in data["outputs"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a plan summary") from error


def summarize(show_json: Mapping[str, Any]) -> Summary:
    """The summary of `terraform show -json PLAN`, parsed. Resources without a change are left out."""
    entries = [entry for entry in show_json.get("resource_changes") or [] if entry.get("change")]
    outputs = show_json.get("output_changes") or {}
    secrets = frozenset(_all_secrets([*(entry["change"] for entry in entries), *outputs.values()]))
    resources = tuple(resource for resource in (_resource(entry, secrets) for entry in entries) if _is_shown(resource))
    changed = tuple(
        output for output in (_output(name, outputs[name], secrets) for name in sorted(outputs)) if output.op != "no-op"
    )
    return Summary(_counts(resources, bool(changed)), resources, changed)


def _is_shown(resource: ResourceChange) -> bool:
    return resource.op != "no-op" or resource.imported or resource.moved_from is not None


def _sides(change: Mapping[str, Any]) -> tuple[Side, Side]:
    return (
        Side(change.get("before"), change.get("before_sensitive", False)),
        Side(change.get("after"), change.get("after_sensitive", False), change.get("after_unknown", False)),
    )


def _all_secrets(changes: list[Mapping[str, Any]]) -> Iterator[str]:
    for change in changes:
        for side in _sides(change):
            yield from secrets_in(side)


def _resource(entry: Mapping[str, Any], secrets: frozenset[str]) -> ResourceChange:
    change = entry["change"]
    op, symbol, label = _OPERATIONS.get(tuple(change.get("actions") or ()), _UNKNOWN_OPERATION)
    imported = bool(change.get("importing"))
    moved_from = entry.get("previous_address")
    if op == "no-op" and imported:
        op, symbol, label = "import", "<-", "import"
    elif op == "no-op" and moved_from:
        op, symbol, label = "move", "->", "move"
    attributes, unchanged = _attributes(*_sides(change), secrets)
    return ResourceChange(
        str(entry.get("address", "")),
        op,
        symbol,
        label,
        tuple(_with_reasons(attributes, change.get("replace_paths") or [])),
        unchanged,
        imported,
        moved_from,
        entry.get("deposed") is not None,
    )


def _attributes(before: Side, after: Side, secrets: frozenset[str]) -> tuple[list[AttributeChange], int]:
    """The attributes that differ, and how many of the top ones that have a value do not."""
    if before.hidden or after.hidden:
        return list(differences(before, after, secrets)), 0
    empty_before = Side({}) if before.value is None else before
    empty_after = Side({}, False, after.unknown) if after.value is None else after
    names = {name for side in (before.value, after.value, after.unknown) if isinstance(side, dict) for name in side}
    attributes: list[AttributeChange] = []
    unchanged = 0
    for name in sorted(names):
        one, other = empty_before.child(name), empty_after.child(name)
        found = list(differences(one, other, secrets, name))
        attributes += found
        unchanged += not found and not other.absent
    return attributes, unchanged


def _with_reasons(attributes: list[AttributeChange], paths: list[list[Any]]) -> Iterator[AttributeChange]:
    """The same, marked where Terraform names an attribute as the reason for a replacement."""
    reasons = {path[0] for path in paths if path and isinstance(path[0], str)}
    for attribute in attributes:
        forces = re.split(r"[.\[]", attribute.path, maxsplit=1)[0] in reasons
        yield AttributeChange(**{**asdict(attribute), "forces_replacement": forces})


def _output(name: str, change: Mapping[str, Any], secrets: frozenset[str]) -> OutputChange:
    op, symbol, _ = _OPERATIONS.get(tuple(change.get("actions") or ()), _UNKNOWN_OPERATION)
    before, after = _sides(change)
    if before.hidden or after.hidden:
        before, after = Side(before.value, True), Side(after.value, True, after.unknown)
    return OutputChange(
        name,
        op,
        symbol,
        None if before.absent else text_of(before, secrets),
        None if after.absent else text_of(after, secrets),
    )


def _counts(resources: tuple[ResourceChange, ...], outputs_changed: bool) -> Counts:
    """Terraform's own way of counting: a replacement is one to add and one to destroy."""
    ops = [resource.op for resource in resources]
    forgotten = sum("forget" in resource.label for resource in resources)
    replaced = ops.count("replace")
    return Counts(
        add=ops.count("create") + replaced,
        change=ops.count("update"),
        destroy=ops.count("delete") + replaced - (forgotten - ops.count("forget")),
        imported=sum(resource.imported for resource in resources),
        forgotten=forgotten,
        outputs_changed=outputs_changed,
    )
