"""One HTTP request and one answer, as the parts of the stand-in hand them to each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Request:
    """A request as it came: `target` is the undecoded path with its query, `headers` keep order and
    repetition.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """The first value of a header, by any case, or None."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    @property
    def path(self) -> str:
        """The undecoded path without the query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The undecoded query, without its question mark."""
        return self.target.partition("?")[2]

    def form(self) -> dict[str, str]:
        """Parameters of AWS's query protocol, from the query and from a form body (the body wins)."""
        pairs = parse_qsl(self.query, keep_blank_values=True)
        if (self.header("content-type") or "").lower().startswith("application/x-www-form-urlencoded"):
            pairs += parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)
        return dict(pairs)


@dataclass
class Response:
    """An answer. `length` overrides the Content-Length of an answer to HEAD, which has no body of its own."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: list[tuple[str, str]] = field(default_factory=list)
    length: int | None = None


def text(status: int, body: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    """A plain answer that no browser or proxy keeps."""
    headers = [
        ("Content-Type", content_type),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Response(status, body.encode("utf-8"), headers)


def as_json(status: int, value: Any) -> Response:
    """A JSON answer."""
    return text(status, json.dumps(value, indent=2) + "\n", "application/json")
