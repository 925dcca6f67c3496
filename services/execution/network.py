"""The walls in a run's network, for workers that are root: a cgroup whose processes the kernel refuses connections.

A child of the worker's own cgroup (v2) is made once for a set of rules, with the programs of `network_programs.py`
attached (bpf(2), cgroups(7)). They stay with the cgroup. A run's wrapper is put into it before it starts anything, and
nothing inside the sandbox can leave: it sees no cgroup file system. What a process sends is judged by the cgroup in
which its socket was made.

All workers of one cgroup share the one of their rules, so there are as many as there were sets of rules, however many
runs there are. Nothing here removes one: a run that outlives its worker keeps it, and between two runs another worker
may be about to put a wrapper into it, which would then start nothing. It goes with the cgroup above.

Any other worker may not do that; neither may root in many containers. Runs then have the worker's network as it is.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from services.execution.network_programs import Program, Rules, programs

#: The number of bpf(2) by `uname -m`; the programs are for processors with the lowest byte first, as these.
_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH, _CGROUP_SOCK_ADDR = 5, 8, 18  # enum bpf_cmd, enum bpf_prog_type, linux/bpf.h


@dataclass(frozen=True, slots=True)
class Enclosure:
    """The cgroup of runs, with its number; or why there is none, as a sentence."""

    folder: Path | None
    why: str = ""
    number: int = 0


def enclosure(rules: Rules) -> Enclosure:
    """The cgroup that holds `rules`; made, or tried, once in this process, and again where it was removed since."""
    found = _enclosure(rules)
    if found.folder is not None and _number(found.folder) != found.number:
        _enclosure.cache_clear()
        found = _enclosure(rules)
    return found


def enter(folder: Path, pid: int) -> None:
    """Put a process into the cgroup `folder`; whatever it starts from then on is in it too. Raises OSError.

    The kernel takes some 10 ms for it (it waits until all processors have seen the change): let it happen beside
    something else.
    """
    descriptor = os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(pid).encode())
    finally:
        os.close(descriptor)


@functools.cache
def _enclosure(rules: Rules) -> Enclosure:
    if os.geteuid() != 0:
        return Enclosure(None, "only a worker that is root may do that.")
    if platform.machine() not in _BPF:
        return Enclosure(None, f"the kernel's numbers for {platform.machine()} are not known here.")
    wanted = programs(rules)
    try:
        above = _own_cgroup()
        if above is None:
            return Enclosure(None, "there is no cgroup (v2) of the worker's to be seen.")
        digest = hashlib.sha256(b"".join(program.code for program in wanted)).hexdigest()
        folder = above / f"lockstep-runs-{digest[:16]}"
        folder.mkdir(mode=0o755, exist_ok=True)
        number = _number(folder)
        _attach(folder, wanted)
    except OSError as error:
        return Enclosure(None, f"the kernel does not let the worker: {error.strerror}.")
    return Enclosure(folder, number=number)


def _number(folder: Path) -> int:
    """The kernel gives none twice, so it tells one that was removed from another that was made in its place."""
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return 0


def _own_cgroup() -> Path | None:
    """The folder of this process's cgroup (cgroups(7), "/proc/pid/cgroup"; proc(5), "mountinfo")."""
    with open("/proc/self/cgroup") as file:
        own = next((line.rstrip("\n")[3:] for line in file if line.startswith("0::")), None)
    if own is None or ".." in own.split("/"):  # outside of what a cgroup namespace shows
        return None
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            root, point = (_spelt(word) for word in before.split()[3:5])
            if after.startswith("cgroup2 ") and Path(own).is_relative_to(root):
                return Path(point) / Path(own).relative_to(root)
    return None


def _spelt(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _attach(folder: Path, wanted: list[Program]) -> None:
    """All of them to the cgroup, each in the place of the one that is there from before.

    Without flags (BPF_F_ALLOW_MULTI) one replaces the other at once, so several workers may do this at the same time.
    """
    cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for program in wanted:
            loaded = _load(program)
            try:
                _bpf(_PROG_ATTACH, struct.pack("=IIII", cgroup, loaded, program.hook, 0))
            finally:
                os.close(loaded)
    finally:
        os.close(cgroup)


def _load(program: Program) -> int:
    """The descriptor of the program in the kernel; it goes with that, or with the last cgroup that has it."""
    code = ctypes.create_string_buffer(program.code, len(program.code))
    license_ = ctypes.create_string_buffer(b"GPL")
    numbers = (_CGROUP_SOCK_ADDR, len(program.code) // 8, ctypes.addressof(code), ctypes.addressof(license_))
    # Of union bpf_attr: type, count, two addresses, log level, size and address, version, flags, name, device, hook.
    return _bpf(_PROG_LOAD, struct.pack("=IIQQIIQII16sII", *numbers, 0, 0, 0, 0, 0, b"lockstep_runs", 0, program.hook))


def _bpf(command: int, attributes: bytes) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    given = ctypes.create_string_buffer(attributes, len(attributes))
    answer = int(library.syscall(_BPF[platform.machine()], command, given, len(attributes)))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
