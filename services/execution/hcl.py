"""As much of HCL's native syntax as is needed to find blocks safely: its tokens.

Follows the HCL specification (github.com/hashicorp/hcl, hclsyntax/spec.md): comments `#`, `//`, `/* */`,
quoted templates with nested `${ }` and `%{ }`, heredocs `<<NAME` and `<<-NAME`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "string", "heredoc", "open", "close", "newline", "other"]

_SPACE = re.compile(r"[ \t\r\ufeff]+")
_LINE_COMMENT = re.compile(r"(?:#|//)[^\n]*")
_HEREDOC = re.compile(r"<<-?([^\W\d][\w-]*)\r?\n")
_NAME = re.compile(r"[^\W\d][\w-]*|\d[\w.]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([nrt\"\\]))|([$%])[$%](?=\{)")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_HEREDOC_ESCAPE = re.compile(r"([$%])\1(?=\{)")
#: A string with something to be computed in it, and where a text in that could begin or end.
_TEMPLATE = re.compile(r"(?<![$%])(?:\$\$|%%)*[$%]\{")
_IN_TEMPLATE = re.compile(r"[\s\"${}%()\[\],?:]+")
#: Words of the language; hidden, they would make a log unreadable and say nothing of a value.
WORDS = frozenset(("true", "false", "null"))


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind and text (of a string or heredoc what stands inside it, undecoded)."""

    kind: Kind
    text: str


class Unfinished(ValueError):
    """A string, heredoc or comment that the text never ends. The message holds none of the text."""


def tokens(text: str) -> Iterator[Token]:
    """The tokens of `text` in order, comments left out; raises Unfinished at one that never ends."""
    position = 0
    while position < len(text):
        character = text[position]
        if match := _SPACE.match(text, position) or _LINE_COMMENT.match(text, position):
            position = match.end()
        elif text.startswith("/*", position):
            position = _after(text, "*/", position + 2)
        elif match := _HEREDOC.match(text, position):
            body, position = _heredoc(text, match.group(1), match.end())
            yield Token("heredoc", body)
            yield Token("newline", "\n")
        elif character == '"':
            end = _after_quoted(text, position)
            yield Token("string", text[position + 1 : end - 1])
            position = end
        elif match := _NAME.match(text, position):
            yield Token("name", match.group())
            position = match.end()
        else:
            yield Token(_kind(character), character)
            position += 1


def is_one_expression(value: str) -> bool:
    """Whether `value` can stand in parentheses without closing them: brackets match, nothing unfinished.

    Says nothing about its meaning; that is terraform's to judge.
    """
    pairs = {")": "(", "]": "[", "}": "{"}
    expected: list[str] = []
    try:
        for token in tokens(value + "\n"):
            if token.kind == "open":
                expected.append(token.text)
            elif token.kind == "close" and (not expected or expected.pop() != pairs[token.text]):
                return False
    except Unfinished:
        return False
    return not expected


def secrets(value: str) -> list[str]:
    """The texts to redact for a sensitive `value`: in each form in which a log can show it or a part of it.

    These are the value as it was typed (terraform quotes its lines in errors), its strings and heredocs as typed
    and as decoded, its numbers and bare words. Keys of an object that are bare words stay readable, and a value
    that is never finished is taken as far as it can be read.
    """
    found = [value]
    for token, is_key in _parts(value):
        if token.kind in ("string", "heredoc"):
            found += [token.text, _decoded(token)]
            if "{" in token.text:
                found += token.text.split('"')  # a string within a template: "${"like this"}"
        elif not is_key and token.text not in WORDS:
            found.append(token.text)
    return [text for text in dict.fromkeys(found) if text]


def literals(value: str) -> list[str]:
    """What a sensitive `value` is made of, each of which has to be hidden by itself: its strings and heredocs as
    decoded, its numbers and bare words. Keys of objects are no secrets; true, false and null say too little.

    A template is taken apart at everything that could begin or end a text in it. The whole is taken of a value that is
    never finished, too.
    """
    found: list[str] = []
    for token, is_key in _parts(value):
        if is_key or token.text in WORDS:
            continue
        if token.kind == "string" and _TEMPLATE.search(token.text):
            found += _IN_TEMPLATE.split(token.text)
        else:
            found.append(_decoded(token) if token.kind in ("string", "heredoc") else token.text)
    if not is_one_expression(value):
        found.append(value)
    return [text for text in dict.fromkeys(found) if text.strip()]


def _parts(value: str) -> Iterator[tuple[Token, bool]]:
    """The strings, heredocs, numbers and bare words of a value as far as it can be read, and which is an object's key.

    A key stands behind "{", a comma or the end of a line; elsewhere ":" belongs to a condition (a ? b : c).
    """
    read, brackets = list[Token](), list[str]()
    with contextlib.suppress(Unfinished):
        read.extend(tokens(value + "\n"))
    end = Token("newline", "\n")
    for before, token, after in zip([end, *read], read, [*read[1:], end], strict=False):
        if token.kind == "open":
            brackets.append(token.text)
        elif token.kind == "close" and brackets:
            brackets.pop()
        elif token.kind in ("string", "heredoc", "name"):
            first = brackets[-1:] == ["{"] and before.text in ("{", ",", "\n") and before.kind != "string"
            yield token, first and after.text in ("=", ":")


def _decoded(token: Token) -> str:
    if token.kind == "heredoc":
        return _HEREDOC_ESCAPE.sub(r"\1", token.text)
    return _ESCAPE.sub(_character, token.text)


def _character(match: re.Match[str]) -> str:
    short, long, sign, template = match.groups()
    if template:
        return str(template)
    if sign:
        return _ESCAPED.get(sign, sign)
    number = int(short or long, 16)
    return chr(number) if number <= 0x10FFFF else match.group()


def _kind(character: str) -> Kind:
    if character in "({[":
        return "open"
    if character in ")}]":
        return "close"
    return "newline" if character == "\n" else "other"


def _after(text: str, end: str, position: int) -> int:
    found = text.find(end, position)
    if found < 0:
        raise Unfinished("A comment is never closed.")
    return found + len(end)


def _heredoc(text: str, name: str, position: int) -> tuple[str, int]:
    """The text of the heredoc whose first line begins at `position`, and the position after its end mark."""
    end = re.compile(rf"^[ \t]*{re.escape(name)}[ \t\r]*$", re.MULTILINE).search(text, position)
    if end is None:
        raise Unfinished("A heredoc is never closed.")
    return text[position : end.start()], end.end()


def _after_quoted(text: str, position: int) -> int:
    """The position after the quoted template that begins at `position`, with what is nested in it."""
    # One entry per open level: "quote" for a template, else the depth of braces of an interpolation.
    levels: list[int | None] = [None]
    position += 1
    while position < len(text):
        character = text[position]
        if levels[-1] is None:
            if character == "\\" or text.startswith(("$${", "%%{"), position):
                position += 2 if character == "\\" else 3
                continue
            if text.startswith(("${", "%{"), position):
                levels.append(0)
                position += 1
            elif character == '"':
                levels.pop()
                if not levels:
                    return position + 1
        else:
            if character == '"':
                levels.append(None)
            elif character in "{}":
                levels[-1] += 1 if character == "{" else -1
                if levels[-1] < 0:
                    levels.pop()
        position += 1
    raise Unfinished("A string is never closed.")
