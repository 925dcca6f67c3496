"""Finding from outside what a process inside of a sandbox calls by its own number."""

from __future__ import annotations

import os
from pathlib import Path

from services.execution.child import Child


def outside(child: Child, number: int) -> int:
    """The pid of the process that is `number` in the sandbox of `child`; the same without a sandbox."""
    if child.init is None:
        return number
    namespace = os.readlink(f"/proc/{child.init.pid}/ns/pid")
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.readlink(folder / "ns/pid") == namespace:
                status = (folder / "status").read_text()
                if status.split("NSpid:")[1].splitlines()[0].split()[-1] == str(number):
                    return int(folder.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    raise AssertionError(f"There is no process {number} in the sandbox.")


def running(argument: str) -> list[int]:
    """The pids of processes with this argument."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
