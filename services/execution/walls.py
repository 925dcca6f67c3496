"""Which sandbox works on this machine: bwrap is really run, and what it says is told from what may pass."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.execution.sandbox import Sandbox, find
from services.execution.terraform import run_to_end

#: Seconds that bwrap has to make a sandbox for trying it, and between two tries.
_TRY_SECONDS, _PAUSE = 20, 2.0

#: What bwrap says (strerror(3)) when something has run out at the moment, which another run can bring about.
_PASSING = (
    "Resource temporarily unavailable",
    "Cannot allocate memory",
    "Too many open files",
    "No space left on device",
    "ENOSPC",
    "Interrupted system call",
)


@dataclass(frozen=True, slots=True)
class Walls:
    """Whether terraform runs inside a sandbox: the program that makes it, or why there is none, as a sentence.

    `offline`: whether it can leave a command without a network as well.
    `unknown`: what went wrong says nothing of this machine and may pass, so there may well be one.
    """

    bwrap: str | None
    why: str = ""
    demanded: bool = False
    offline: bool = False
    unknown: bool = False

    @property
    def refused(self) -> bool:
        """Nothing may run: there is no sandbox, and one is demanded or could perhaps be had."""
        return self.bwrap is None and (self.demanded or self.unknown)


_known: list[Walls] = []
"""What `_tried` found, once it is known; a process that is forked knows it from the start."""


def find_walls(setting: str, *, tries: int = 1) -> Walls:
    """What TERRAFORM_SANDBOX comes to on this machine. bwrap is really run for it, once in this process.

    What is not known then is asked for anew each time, here up to `tries` times. It never means that there is none:
    a run that uses up processes or memory at that moment would take the walls from all that follow.
    """
    if setting == "none":
        return Walls(None, "TERRAFORM_SANDBOX is none.")
    found = _tried()
    for _ in range(tries - 1):
        if not found.unknown:
            break
        time.sleep(_PAUSE)
        found = _tried()
    return Walls(found.bwrap, found.why, setting == "bwrap", found.offline, found.unknown)


def _tried() -> Walls:
    """Make a sandbox as a run's would be, with the command `true` in it. Kept once it is known."""
    if not _known:
        program = find()
        found = Walls(None, "bubblewrap is not installed (there is no bwrap on PATH).") if program is None else None
        found = found or _try(str(program))
        if found.unknown:
            return found
        _known.append(found)
    return _known[0]


def _try(program: str) -> Walls:
    """With a network of its own where it takes one: in many containers bwrap cannot make one whose loopback is up."""
    why = ""
    for offline in (True, False):
        try:
            code, said = _made(program, offline=offline)
        except OSError as error:
            return _unknown(f"{program} could not be run ({error.strerror or type(error).__name__}).")
        if code is None:
            return _unknown(f"{program} gave no answer within {_TRY_SECONDS} s.")
        if code == 0:
            return Walls(program, offline=offline)
        # bwrap's own words are the one sign that it cannot; the program inside, or whatever killed it, says nothing.
        if code != 1 or not said.startswith("bwrap: ") or any(passing in said for passing in _PASSING):
            return _unknown(f"{program} ended with {code}{f': {said}' if said else ''}.")
        why = f"{program} cannot make a sandbox here: {said}."
    return Walls(None, why)


def _made(program: str, *, offline: bool) -> tuple[int | None, str]:
    """Exit code, None for no answer in time, and the first words of a bwrap that makes a sandbox."""
    with scratch() as root:
        attempt = Sandbox(program, root, root.parent, offline=offline)
        attempt.hand_over()
        command = attempt.command(["/bin/sh", "-c", "exit 0"], cwd=root / "config", env={"PATH": os.defpath})
        with tempfile.TemporaryFile() as output:
            try:
                code = run_to_end(command, root, {}, output, timeout=_TRY_SECONDS, errors=True)
            finally:
                command.close()
            output.seek(0)
            return code, output.read(300).decode(errors="replace").strip().rstrip(".")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A working directory for a sandbox in which no run has a part, without content; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="lockstep-sandbox-") as folder:
        root = Path(folder).resolve() / "root"
        for name in ("config", "state", "variables", "home", "tmp", "control"):
            (root / name).mkdir(parents=True)
        yield root


def _unknown(why: str) -> Walls:
    return Walls(None, f"Whether a sandbox can be made could not be found out: {why}", unknown=True)
