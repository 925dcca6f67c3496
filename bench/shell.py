"""Terraform in a shell, as somebody without Lockstep runs it: what the figures are compared with."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

INIT = "terraform init -input=false"
PLAN = "terraform plan -input=false -out=tfplan"
APPLY = "terraform apply -input=false tfplan"

#: What the environment of terraform has in a phase as well.
COMMON = {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "AWS_EC2_METADATA_DISABLED": "true"}


class Folder:
    """A working directory with one main.tf and its variables."""

    def __init__(self, folder: Path, configuration: str, variables: str, env: Mapping[str, str]) -> None:
        self.folder = folder
        (folder / "main.tf").write_text(configuration)
        (folder / "terraform.tfvars").write_text(variables)
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            **COMMON,
            **env,
        }

    def seconds(self, *commands: str, output: str = "output") -> float:
        """Run commands one after another in one shell, their output to a file; how long that took."""
        shell = shutil.which("sh") or "/bin/sh"
        with open(self.folder / output, "ab") as file:
            begun = time.monotonic()
            done = subprocess.run(
                [shell, "-c", " && ".join(commands)],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            took = time.monotonic() - begun
        assert done.returncode == 0, (self.folder / output).read_text(errors="replace")[-2000:]
        return took

    def first_byte(self, command: str) -> float:
        """Seconds from starting a command to the first byte that it prints; it then runs to its end."""
        shell = shutil.which("sh") or "/bin/sh"
        begun = time.monotonic()
        with subprocess.Popen(
            [shell, "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            took = time.monotonic() - begun
            process.stdout.read()
        return took


@contextmanager
def folder(configuration: str, variables: str = "", env: Mapping[str, str] | None = None) -> Iterator[Folder]:
    """A new one, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="lb-shell-") as name:
        yield Folder(Path(name), configuration, variables, env or {})
