"""The walls around a terraform command, drawn by bubblewrap (bwrap(1)): what it sees, may do and may use up.

It sees the system read-only, its own config/, state/, variables/, home/, tmp/ and tfplan under their own paths, the
operator's CLI configuration and provider mirror read-only, and nothing else of the file system: no data folder, no
control folder, no spool, no other run. It has process ids, a /proc, IPC and a host name of its own, no capability, no
way to new ones, and no user namespaces (`seccomp.py`). The network is the machine's: terraform has to reach AWS. What
is refused in it, `network.py` says; a command that only reads has none.

A worker that is root gives the command another user id, one for each run. Root without capabilities
could still write to the files of /proc/sys, would pass for root on the machine's abstract sockets, and no limit of
processes counts for it. Any other worker's user stays, in a user namespace of its own.

`--die-with-parent` is for reading commands only: a command of a run outlives its worker.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.execution import inside, seccomp

STAGE = Path(__file__).resolve().with_name("sandbox_stage.py")

#: The first user id that a worker which is root gives away, and how many: beyond those of systems and containers.
FIRST_UID, UIDS = 1_900_000_000, 100_000

#: Where a user namespace around everything (a container) has no such ids.
SMALL_FIRST_UID, SMALL_UIDS = 60_600, 400

_SHARED = ("config", "state", "home", "tmp")
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (  # noqa: SIM905 (a line for each would be longer than all the rest)
    "alternatives ca-certificates crypto-policies gai.conf host.conf hosts ld.so.cache ld.so.conf ld.so.conf.d "
    "localtime mime.types nsswitch.conf pki/ca-trust pki/tls/certs pki/tls/cert.pem protocols resolv.conf services "
    "ssh/ssh_config ssh/ssh_known_hosts ssl/cert.pem ssl/certs ssl/openssl.cnf timezone"
).split()
_TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (made for each command)


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, the descriptors that it names, and what is read from each."""

    argv: list[str]
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors; the program that was started has its own."""
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Around the commands of one working directory.

    `readable`: further paths that they may read. `owner`: working directories with the same one, those of one run, get
    the same user id; "" for one of its own. `cgroup`: where `terraform.start` puts the commands, so that some
    connections are refused. `offline`: whether a command can be left without a network on this machine.
    """

    bwrap: str
    root: Path
    data: Path
    readable: tuple[Path, ...] = ()
    owner: str = ""
    cgroup: Path | None = None
    offline: bool = False

    @property
    def uid(self) -> int | None:
        """The user id that takes root's place; None where the worker's own user stays."""
        if os.geteuid() != 0:
            return None
        first, number = _uids()
        return first + zlib.crc32(os.fsencode(self.owner or self.root)) % number

    def lay_out(self) -> None:
        """Before the first sandbox: the plan file to write to."""
        plan = self.root / "tfplan"
        if not os.path.lexists(plan):
            os.close(os.open(plan, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def hand_over(self) -> None:
        """Before the first command: everything in the hands of the command's user."""
        self.lay_out()
        mark = self.root / "handed_over"
        if self.uid is None or (mark.exists() and mark.read_text() == str(self.uid)):
            return
        for name in (*_SHARED, "variables", "tfplan"):
            if os.path.lexists(self.root / name):
                inside.give(self.root, name, self.uid)
        mark.touch(mode=0o600)
        mark.write_text(str(self.uid))

    def command(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        gate: tuple[str, str] | None = None,
        info: str | None = None,
    ) -> Command:
        """The command line that runs `argv` inside; the caller closes its descriptors once it is started.

        `gate` are the two descriptors of `sandbox_stage.py`, `info` one that is told bwrap's child, as they will be
        known where bwrap is started. The words of the command then come through the gate: `argv` is how they begin.
        Without a gate the command only reads: it starts at once, has no network, and dies with whoever started it.
        """
        uid = os.geteuid() if self.uid is None else self.uid
        environment = b"\0".join(os.fsencode(f"{name}={value}") for name, value in env.items())
        contents = {"env": environment, "passwd": _passwd(uid, self.root / "home"), "group": _group(uid)}
        calls = seccomp.program()
        if calls is not None:
            contents["seccomp"] = calls
        if (configuration := _cli_config(env)) is not None:
            contents["cli"] = configuration
        files = {name: str(_memory(name, content)) for name, content in contents.items()}
        walls = [self.bwrap, *self._namespaces(), *self._files(argv, env, files), "--chdir", "/"]
        if calls is not None:
            walls += ["--seccomp", files["seccomp"]]
        walls += ["--info-fd", info] if info is not None else []
        if gate is None:
            walls += ["--die-with-parent", *(["--unshare-net"] if self.offline else [])]
        change = "-" if self.uid is None else str(self.uid)
        told = [change, *(gate or ("-", "-")), files["env"], limits(), str(cwd)]
        return Command(
            [*walls, "--", sys.executable, "-I", "-S", str(STAGE), *told, *([] if gate else argv)],
            [int(number) for number in files.values()],
        )

    def _namespaces(self) -> list[str]:
        common = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--new-session", "--cap-drop", "ALL"]
        if self.uid is None:
            return ["--unshare-user", *common]
        # Only for changing the user id, which takes them away again.
        return [*common, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]

    def _files(self, argv: Sequence[str], env: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
        view, readable = _View(), self._readable(argv, env)
        view.system()
        for name in ("passwd", "group"):
            view.put("--ro-bind-data", files[name], Path("/etc", name))
        view.args += ["--proc", "/proc", "--dev", "/dev"]
        for scratch in map(Path, _SCRATCH):
            if self.data.is_relative_to(scratch):
                view.hide(scratch, mode="1777")
            else:
                view.put("--bind", self.root / "tmp", scratch)
        below = [path for path in readable if path.is_relative_to(self.data)]
        view.read_only(path for path in readable if path not in below)
        if any(self.data.is_relative_to(path) for path in (Path("/usr"), *readable)):
            view.hide(self.data)
        view.read_only(below)
        for name in (*_SHARED, "tfplan"):
            view.put("--bind", self.root / name, self.root / name)
        view.put("--ro-bind", self.root / "variables", self.root / "variables")
        if "cli" in files:
            # Its content, not the file: that is often its owner's alone to read, and a run may have another user id.
            view.put("--ro-bind-data", files["cli"], Path(env["TF_CLI_CONFIG_FILE"]), mode="0444")
        return [*view.args, "--remount-ro", "/", "--remount-ro", "/dev"]

    def _readable(self, argv: Sequence[str], env: Mapping[str, str]) -> list[Path]:
        """What the command needs beside the system, the outermost first, each path as it is spelt and as it is."""
        python = Path(sys.executable)
        wanted = [python, Path(sys.base_prefix), STAGE, *(Path(word) for word in argv if os.path.isabs(word))]
        wanted += [Path(env[name]) for name in _TRUST if env.get(name)]
        if configuration := env.get("TF_CLI_CONFIG_FILE"):
            wanted += _named_in(Path(configuration))
        wanted += self.readable
        paths = {spelt for path in wanted for spelt in (path, Path(os.path.realpath(path))) if spelt.is_absolute()}
        there = [Path("/usr"), self.root, *(Path(f"/{name}") for name in _SYSTEM)]
        kept = {path for path in paths if not any(path.is_relative_to(seen) for seen in there)}
        seen = sorted(path for path in kept if path != Path("/") and path.exists())
        return [path for path in seen if not any(above in seen and not above.is_symlink() for above in path.parents)]


class _View:
    """The file system of a sandbox as bwrap's arguments, in the order in which it is laid out."""

    def __init__(self) -> None:
        self.args: list[str] = []
        self._made: set[Path] = set()

    def put(self, how: str, source: Path | str, place: Path, mode: str = "") -> None:
        """Something at `place`. bwrap by itself makes the folders above it for root alone."""
        for parent in reversed(place.parents[:-1]):
            if parent not in self._made:
                self.args += ["--dir", str(parent)]
                self._made.add(parent)
        self.args += [*(("--perms", mode) if mode else ()), how, str(source), str(place)]

    def hide(self, folder: Path, mode: str = "0755") -> None:
        """An empty folder in its place."""
        self.args += ["--perms", mode, "--tmpfs", str(folder)]
        self._made -= {path for path in self._made if path.is_relative_to(folder)}

    def system(self) -> None:
        """Programs, libraries, and of /etc what names hosts, certificates and the time."""
        self.args += ["--ro-bind", "/usr", "/usr"]
        for path in (Path("/", name) for name in _SYSTEM):
            if path.is_symlink():
                self.args += ["--symlink", os.readlink(path), str(path)]
            elif path.is_dir():
                self.args += ["--ro-bind", str(path), str(path)]
        for path in (Path("/etc", name) for name in _ETC):
            if path.exists():
                self.put("--ro-bind", path, path)

    def read_only(self, paths: Iterable[Path]) -> None:
        """The paths as they are. A link stays one: Python looks for its library beside the file that it leads to."""
        for path in paths:
            self.put("--symlink" if path.is_symlink() else "--ro-bind", os.path.realpath(path), path)


def find() -> str | None:
    """The bwrap on PATH, None without one."""
    return shutil.which("bwrap")


def limits() -> str:
    """What a command may use up, each of its processes for itself, as `sandbox_stage.py` takes it.

    Go reserves far more addresses than it uses, so the limit is on data (RLIMIT_DATA) and not on addresses: three
    quarters of the machine's memory, at least 2 GiB. It does not count what processes share; only the service's cgroup
    bounds that, and the sum.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 4096,
        "RLIMIT_NOFILE": 65536,
        "RLIMIT_FSIZE": 8 << 30,
        "RLIMIT_DATA": max(memory // 4 * 3, 2 << 30),
    }
    return ",".join(f"{name}={number}" for name, number in most.items())


def _uids() -> tuple[int, int]:
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    wide = any(first <= FIRST_UID and first + length >= FIRST_UID + UIDS for first, _, length in ranges)
    return (FIRST_UID, UIDS) if wide else (SMALL_FIRST_UID, SMALL_UIDS)


def _named_in(configuration: Path) -> list[Path]:
    """The absolute paths in a Terraform CLI configuration: mirrors, development overrides, a filled cache."""
    try:
        text = configuration.read_text("utf-8", "replace")
    except OSError:
        return []
    return [Path(found) for found in re.findall(r'"(/[^"\n]+)"', text)]


def _passwd(uid: int, home: Path) -> bytes:
    lines = ["root:x:0:0:root:/nonexistent:/usr/sbin/nologin", f"run:x:{uid}:{uid}:run:{home}:/bin/sh"]
    return os.fsencode("\n".join(lines) + "\n")


def _group(gid: int) -> bytes:
    return f"root:x:0:\nrun:x:{gid}:\n".encode()


def _cli_config(env: Mapping[str, str]) -> bytes | None:
    """Terraform's CLI configuration as the worker reads it; None for none, or one that is not there."""
    path = Path(env.get("TF_CLI_CONFIG_FILE", ""))
    try:
        return path.read_bytes() if path.is_absolute() else None
    except OSError:
        return None


def _memory(name: str, content: bytes) -> int:
    descriptor = os.memfd_create(f"lockstep-{name}", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
