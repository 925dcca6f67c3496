"""What a configuration says about where its state lives, and which of its variables are ephemeral.

Read from the files themselves, before terraform runs: a wrong answer would either take a team's own
backend away or lose a state, so the text is tokenised and never matched with a pattern. After `init`
the answer is checked against what terraform made of it (`Workdir.check_backend`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.execution import hcl, inside

#: Bytes of a configuration file that are looked at.
_MOST = 64 << 20
_TF_END = re.compile(r"\.tf(\.json)?$")


def own_backend(folder: Path, *, tofu: bool) -> str | None:
    """The type of backend that the configuration in `folder` chooses: "s3", "local", … or "cloud".

    `tofu` is, here as below, whether OpenTofu reads it: terraform passes its files over.
    None when it has neither a `backend` nor a `cloud` block. Only `folder` itself counts: terraform
    reads these blocks in the root module alone. An override file's block takes the place of the others', the last
    one's of all (https://developer.hashicorp.com/terraform/language/files/override). Files terraform cannot parse
    say nothing here; it will.
    """
    chosen: str | None = None
    for path in _files(folder, tofu):
        text = _text(folder, path)
        found = _in_json(text) if path.name.endswith(".json") else _in_native(text)
        if found is not None and (chosen is None or _overrides(path)):
            chosen = found
    return chosen


def has_own_backend(folder: Path, *, tofu: bool) -> bool:
    """Whether the state is kept elsewhere, so that Lockstep must leave it alone.

    A `backend "local"` is not elsewhere: its file would be lost with the working directory, so Lockstep
    keeps that state too.
    """
    return own_backend(folder, tofu=tofu) not in (None, "local")


def is_configuration(folder: Path, *, tofu: bool) -> bool:
    """Whether `folder` itself has something to run in it; override files alone only change what others say."""
    return any(not _overrides(path) for path in _files(folder, tofu))


def ephemeral_variables(folder: Path, *, tofu: bool) -> frozenset[str]:
    """Names of the root module's variables with `ephemeral = true` (terraform ≥ 1.10).

    Their values are not kept in a saved plan and must be given again for its apply.
    """
    names: set[str] = set()
    for path in _files(folder, tofu):
        text = _text(folder, path)
        if path.name.endswith(".json"):
            names.update(_ephemeral_in_json(text))
        else:
            for header, body in _blocks(_tokens(text)):
                if len(header) == 2 and header[0] == "variable" and _is_ephemeral(body):
                    names.add(header[1])
    return frozenset(names)


def _files(folder: Path, tofu: bool) -> list[Path]:
    """The configuration files that are read, in their order: override files after all others.

    OpenTofu reads main.tofu in place of a main.tf (https://opentofu.org/docs/language/files/).
    """
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()}
    read = {name for name in there if name.endswith((".tf", ".tf.json"))}
    if tofu:
        own = {name for name in there if name.endswith((".tofu", ".tofu.json"))}
        read = own | {name for name in read if _TF_END.sub(r".tofu\1", name) not in own}
    return sorted((folder / name for name in read), key=lambda path: (_overrides(path), path.name))


def _overrides(path: Path) -> bool:
    name = path.name.removesuffix(".json").removesuffix(".tf").removesuffix(".tofu")
    return name == "override" or name.endswith("_override")


def _text(folder: Path, path: Path) -> str:
    """What a file says; nothing for what a command put in its place. An archive holds no links."""
    try:
        return inside.read(folder, path, _MOST).decode("utf-8", "replace")
    except OSError:
        return ""


def _tokens(text: str) -> list[hcl.Token]:
    found: list[hcl.Token] = []
    try:
        for token in hcl.tokens(text):
            found.append(token)
    except hcl.Unfinished:
        pass
    return found


def _in_native(text: str) -> str | None:
    for header, body in _blocks(_tokens(text)):
        if header == ["terraform"]:
            for inner, _ in _blocks(body):
                if inner == ["cloud"]:
                    return "cloud"
                if len(inner) == 2 and inner[0] == "backend":
                    return inner[1]
    return None


def _blocks(tokens: list[hcl.Token]) -> Iterator[tuple[list[str], list[hcl.Token]]]:
    """The blocks at the outermost level of `tokens`: (type and labels, the tokens of the body)."""
    header: list[str] | None = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token.kind == "newline":
            header = []
        elif token.kind == "open":
            end = _matching(tokens, position)
            if token.text == "{" and header:
                yield header, tokens[position + 1 : end]
            header = None
            position = end
        elif token.kind in ("name", "string") and header is not None:
            header.append(token.text)
        else:
            # "=" or another sign: an attribute, whatever comes on this line is no block.
            header = None
        position += 1


def _matching(tokens: list[hcl.Token], start: int) -> int:
    depth = 0
    for position in range(start, len(tokens)):
        depth += {"open": 1, "close": -1}.get(tokens[position].kind, 0)
        if depth == 0:
            return position
    return len(tokens)


def _is_ephemeral(body: list[hcl.Token]) -> bool:
    depth = 0
    for position, token in enumerate(body):
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if depth == 0 and [t.text for t in body[position : position + 3]] == ["ephemeral", "=", "true"]:
            return True
    return False


def _in_json(text: str) -> str | None:
    for block in _members(_parsed(text), "terraform"):
        for _ in _members(block, "cloud"):
            return "cloud"
        for backend in _members(block, "backend"):
            for name, _ in backend:
                return str(name)
    return None


def _ephemeral_in_json(text: str) -> Iterator[str]:
    for block in _members(_parsed(text), "variable"):
        for name, value in block:
            for declaration in _objects(value):
                if any(key == "ephemeral" and setting in (True, "true") for key, setting in declaration):
                    yield name


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated keys, which terraform merges and a dict would drop."""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return _Pairs()


def _objects(value: Any) -> Iterator[_Pairs]:
    """`value` as blocks: terraform takes an object, or a list of objects for several blocks."""
    if isinstance(value, _Pairs):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _members(value: Any, key: str) -> Iterator[_Pairs]:
    for item in _objects(value):
        for name, content in item:
            if name == key:
                yield from _objects(content)
