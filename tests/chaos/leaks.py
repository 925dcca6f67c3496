"""Looks for keys, tokens, passwords and typed codes wherever something was written."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import redis

from deploy import redis_server
from tests.browser.cast import PASSWORD
from tests.chaos.stack import Stack


def found(stack: Stack, codes: list[str], kept: list[str]) -> list[str]:
    """A sentence for each place that holds one; the secret itself is not in it.

    ``kept`` are working directories that Lockstep leaves for an operator: what terraform itself wrote there, state and
    output alike, is as it wrote it.
    """
    stack.identities.reload()
    secrets = {"the password": PASSWORD}
    for user in stack.identities.users.values():
        secrets[f"the secret key of {user.name}"] = user.secret_access_key
        secrets[f"the device's secret of {user.name}"] = user.mfa_secret
    for session in stack.identities.sessions.values():
        secrets[f"a temporary secret key of {session.user}"] = session.secret_access_key
        secrets[f"a session token of {session.user}"] = session.token
    # Microseconds of a time stamp, and parts of longer words, are none.
    typed = re.compile(
        rb"(?<![0-9A-Za-z.+/=_-])(?:%s)(?![0-9A-Za-z+/=_-])" % b"|".join(c.encode() for c in codes or ["-"])
    )
    wrong = set()
    for place, content in _places(stack, kept):
        wrong |= {f"{what} stands in {place}" for what, secret in secrets.items() if secret.encode() in content}
        if match := typed.search(content):
            around = content[max(0, match.start() - 60) : match.end() + 30].replace(match[0], b"<code>")
            wrong.add(f"a typed code stands in {place}: {around!r}")
    return sorted(wrong)


def _places(stack: Stack, kept: list[str]) -> Iterator[tuple[str, bytes]]:
    for path in [*stack.logs.iterdir(), stack.world, *_spools(stack, kept)]:
        yield path.name, path.read_bytes()
    with closing(sqlite3.connect(stack.home / "lockstep.db")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                yield f"table {table}", b"\n".join(_bytes(value) for value in row)
    client = redis.Redis(unix_socket_path=str(redis_server.socket_path(stack.home)))
    for key in client.scan_iter("*"):
        yield "Redis", key + b"\n" + (client.dump(key) or b"")
    client.close()
    yield from ((f"Redis' {path.name}", path.read_bytes()) for path in _files(stack.home / "redis"))


def _spools(stack: Stack, kept: list[str]) -> list[Path]:
    return [path for path in (stack.home / "work").glob("phase-*/spool") if path.parent.name not in kept]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
