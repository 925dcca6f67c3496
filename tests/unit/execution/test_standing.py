"""A sandbox that is made before its command is known: it becomes that, or it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.execution import terraform as tf
from tests.support.processes import running
from tests.unit.execution.conftest import Bench, MakeBench
from tests.unit.execution.waiting import until

#: Makes everything ready for a plan, says so, and waits.
STARTER = """
import sys, time
from pathlib import Path
from services.execution import terraform as tf
from services.execution.sandbox import Sandbox
from services.execution.workdir import Workdir
root, data, bwrap, admitted = sys.argv[1:]
if admitted == "no":
    tf.Standing._admit = lambda *_: time.sleep(60)
workdir = Workdir(Path(root))
walls = Sandbox(bwrap, workdir.root, Path(data))
standing = tf.stand_by(tf.locate(None), "plan", cwd=workdir.config, env={"PATH": "/usr/bin"},
                       spool=workdir.spool_path, control=workdir.control, sandbox=walls)
print("ready", flush=True)
sys.stdin.read()
"""


def ready(bench: Bench, step: str) -> tf.Standing:
    return tf.stand_by(
        bench.terraform,
        step,
        cwd=bench.workdir.cwd,
        env=bench.env,
        spool=bench.workdir.spool_path,
        control=bench.workdir.control,
        sandbox=bench.sandbox,
    )


def standing(bench: Bench) -> list[int]:
    """The processes that wait for a command here."""
    return running(str(bench.workdir.control)) + running(str(bench.workdir.cwd))


def test_it_becomes_the_command_that_it_is_told_later(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    shutil.rmtree(bench.workdir.config)
    bench.workdir.config.mkdir()
    folder = bench.workdir.config / "below"
    made = tf.stand_by(
        bench.terraform,
        "init",
        cwd=folder,
        env=bench.env,
        spool=bench.workdir.spool_path,
        control=bench.workdir.control,
        sandbox=bench.sandbox,
    )
    folder.mkdir()
    (folder / "main.tf").write_text('output "it" { value = 1 }\n')
    with contextlib.closing(made):
        child = made.release(["init", "-no-color"])
    assert child.wait(60) == 0, bench.output()
    assert child.argv == (*any_terraform.argv, "init", "-no-color")
    assert "successfully initialized" in bench.output()


def test_its_time_is_the_commands_own(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    with contextlib.closing(ready(bench, "init")) as made:
        until(lambda: len(standing(bench)) >= 2)
        time.sleep(2)  # what is waited for is the time itself
        child = made.release(["init"])
    assert child.wait(60) == 0
    assert (child.duration() or 9) < 2


def test_one_that_is_not_needed_leaves_nothing(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    made = ready(bench, "plan")
    until(lambda: len(standing(bench)) >= 2)
    made.close()
    until(lambda: not standing(bench))
    assert list(bench.workdir.control.iterdir()) == []
    assert bench.output() == ""
    with pytest.raises(tf.ChildNotStarted):
        tf.attach(bench.workdir.control, "plan")


@pytest.mark.parametrize("admitted", ["yes", "no"])
def test_one_whose_starter_is_killed_leaves_nothing(
    any_terraform: tf.Terraform, make_bench: MakeBench, admitted: str
) -> None:
    """Not even a word in the log, which another worker goes on with."""
    bench = make_bench(any_terraform)
    assert bench.sandbox is not None
    arguments = [str(bench.workdir.root), str(bench.sandbox.data), bench.sandbox.bwrap, admitted]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdin is not None and starter.stdout is not None
    with starter.stdin, starter.stdout:
        assert starter.stdout.readline() == b"ready\n"
        until(lambda: len(running(str(bench.workdir.control))) >= 1)
        starter.kill()
        starter.wait()
    until(lambda: not standing(bench))
    assert list(bench.workdir.control.iterdir()) == []
    assert bench.output() == ""


@pytest.mark.parametrize("which", ["wrapper", "first"])
def test_one_that_is_killed_while_it_waits_is_not_started(
    any_terraform: tf.Terraform, make_bench: MakeBench, which: str
) -> None:
    bench = make_bench(any_terraform)
    with contextlib.closing(ready(bench, "init")) as made:
        until(lambda: bool(running(str(bench.workdir.cwd))))
        waiting = running(str(bench.workdir.control)) if which == "wrapper" else running(str(bench.workdir.cwd))[-1:]
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(tf.ChildNotStarted):  # where the wrapper lives, it writes down that this has ended
            assert made.release(["init"]).wait(30) not in (None, 0)
    until(lambda: not standing(bench))
    assert "Initializing" not in bench.output()


def test_a_sandbox_that_begins_when_its_wrapper_is_gone_leaves_nothing(
    any_terraform: tf.Terraform, make_bench: MakeBench, tmp_path: Path
) -> None:
    """Its first process would wait for good, with the environment of the command, for one that cannot tell it more."""
    bench = make_bench(any_terraform)
    assert bench.sandbox is not None
    gate, late = tmp_path / "gate", tmp_path / "late-bwrap"
    late.write_text(f'#!/bin/sh\nuntil test -e {gate}; do sleep 0.02; done\nexec {bench.sandbox.bwrap} "$@"\n')
    late.chmod(0o755)
    bench.sandbox = replace(bench.sandbox, bwrap=str(late))
    with contextlib.closing(ready(bench, "init")) as made:
        until(lambda: bool(set(running(str(late))) - set(running(str(bench.workdir.control)))))
        for pid in running(str(bench.workdir.control)):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(tf.ChildNotStarted):
            made.release(["init"])
    gate.touch()
    until(lambda: not standing(bench))


def test_a_step_that_was_started_meanwhile_is_not_started_again(
    any_terraform: tf.Terraform, make_bench: MakeBench
) -> None:
    bench = make_bench(any_terraform)
    with contextlib.closing(ready(bench, "init")) as made:
        bench.init()
        with pytest.raises(tf.ChildAlreadyStarted):
            made.release(["init"])
    until(lambda: not standing(bench))
    assert bench.output().count("successfully initialized") == 1
