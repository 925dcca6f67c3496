"""Which machine a worker is on: the one whose data folder holds its working directories.

The name of the machine alone would not do: a container gets a new one with each start and keeps its data folder,
and two machines can have the same.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path

from flask import current_app

_FILE = "worker_host"


def identity() -> str:
    """Such as "web1-3f9a1c": made once for a data folder, from the machine's name then; at most 60 characters."""
    home: Path = current_app.config["LOCKSTEP"].home
    path = home / _FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:50] or "host"
    part = home / f"{_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    part.write_text(f"{name}-{secrets.token_hex(3)}\n")
    part.chmod(0o600)
    try:
        os.link(part, path)
    except FileExistsError:
        pass  # another process was quicker; its name counts
    finally:
        part.unlink()
    return path.read_text().strip()


def worker() -> str:
    """The name under which the present process holds a phase: "HOST:PID"."""
    return f"{identity()}:{os.getpid()}"


def nobody(worker_name: str | None) -> str:
    """A name that no process has, on the machine of a phase's holder."""
    return f"{of(worker_name)}:gone"


def of(worker_name: str | None) -> str:
    """The machine of a phase's holder, "" for none."""
    return (worker_name or "").rpartition(":")[0]
