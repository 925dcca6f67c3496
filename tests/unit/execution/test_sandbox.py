"""The walls themselves: what a command sees, may and may use up inside of them; as root, and as anybody else."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.execution import sandbox, seccomp, walls
from services.execution import terraform as tf
from services.execution.sandbox import Sandbox
from services.execution.walls import Walls, find_walls
from tests.unit.execution.conftest import Bench, MakeBench
from tests.unit.execution.waiting import until

TOP = Path(__file__).parents[3]

PROVISIONER = 'resource "terraform_data" "it" {\n  provisioner "local-exec" { command = %s }\n}\n'


@pytest.fixture(autouse=True)
def _there_is_one() -> None:
    assert find_walls("auto").bwrap, find_walls("auto").why


def said(bench: Bench, command: str) -> str:
    """What a provisioner prints."""
    bench.write(PROVISIONER % json.dumps(command))
    bench.workdir.place_state(None)
    bench.init()
    assert bench.run("apply", "-auto-approve", "-no-color") == 0, bench.output()
    lines = bench.output().splitlines()
    return "\n".join(line.partition("(local-exec): ")[2] for line in lines if "(local-exec): " in line)


def test_what_is_seen(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    root = bench.workdir.root
    home = root.parents[1]
    (home / "encryption_keys").write_text("canary")
    text = said(bench, f"ls -a {root} {home} / /etc; grep -c . /etc/passwd; ls /proc; touch /x {root}/x /usr/x; true")
    shown = text.partition("ls -a")[2]
    for hidden in ("control", "spool", "encryption_keys", "canary", "shadow", "boot", "home:"):
        assert f"\n{hidden}\n" not in shown, hidden
    for seen in ("config", "state", "variables", "home", "tmp", "tfplan", "resolv.conf"):
        assert f"\n{seen}\n" in shown, seen
    assert not (root / "x").exists() and not Path("/x").exists() and not Path("/usr/x").exists()


def test_a_cli_configuration_that_is_its_owners_alone_counts(
    any_terraform: tf.Terraform, make_bench: MakeBench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As that of `make demo`: a run of a worker that is root has another user id."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    mirror, configuration = elsewhere / "mirror", elsewhere / "terraform.rc"
    mirror.mkdir()
    configuration.write_text(f'provider_installation {{\n  filesystem_mirror {{ path = "{mirror}" }}\n}}\n')
    configuration.chmod(0o600)
    bench = make_bench(any_terraform)
    bench.env["TF_CLI_CONFIG_FILE"] = str(configuration)
    text = said(bench, f"cat {configuration}; ls -d {mirror} && echo there")
    assert "filesystem_mirror" in text and text.endswith("there")


def test_no_rights_and_none_to_be_had(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    text = said(
        make_bench(any_terraform),
        "cat /proc/self/status; id -u; unshare -U true || echo no-user-namespace; unshare -m true || echo no-mounts; "
        "mount -t tmpfs x /tmp || echo no-mount; chroot / true || echo no-chroot; su -c true || echo no-su",
    )
    for line in ("NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Seccomp:\t2"):
        assert line in text
    for word in ("no-user-namespace", "no-mounts", "no-mount", "no-chroot", "no-su"):
        assert f"\n{word}" in text, word
    assert "\n0\n" not in text.partition("Seccomp")[2], "not root"


def test_limits(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    text = said(make_bench(any_terraform), "cat /proc/self/limits; dd if=/dev/zero of=big bs=1 seek=9G count=1; true")
    found = {line[:26].strip(): line[26:].split()[1] for line in text.splitlines() if line.startswith("Max ")}
    assert (found["Max processes"], found["Max core file size"]) == ("4096", "0")
    assert found["Max open files"] == str(min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert found["Max file size"] == str(8 << 30)
    assert int(found["Max data size"]) >= 2 << 30
    assert "File too large" in text or "File size limit" in text


def test_a_loader_variable_takes_no_effect_outside(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    bench.env["LD_PRELOAD"] = "/nonexistent-canary.so"
    bench.init()
    child = bench.children[0]
    assert child.exit_code() == 0
    # The loader of bwrap and of the first program would have complained; only terraform is given it.
    assert bench.output().count("nonexistent-canary") <= 1


def test_what_is_left_running_ends_with_the_command(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    said(bench, "setsid sh -c 'while :; do date +%s%N > $HOME/alive; sleep 0.05; done' </dev/null >/dev/null 2>&1 &")
    child, note = bench.children[-1], bench.workdir.home / "alive"
    assert child.init is not None and not child.init.alive()
    before = note.read_bytes() if note.exists() else b""
    time.sleep(0.3)  # a loop that lived would have written several times
    assert (note.read_bytes() if note.exists() else b"") == before


def test_a_killed_sandbox_is_a_killed_terraform(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform, PROVISIONER % '"echo begun; sleep 60"')
    bench.workdir.place_state(None)
    bench.init()
    child = bench.start("apply", "-auto-approve", "-no-color")
    until(lambda: "(local-exec): begun" in bench.output())
    assert child.command.signal(9)
    assert child.wait(20) == -9


def test_a_sandbox_that_cannot_be_made_says_why_in_the_log(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform)
    assert bench.sandbox is not None
    bench.sandbox.hand_over()
    shutil.rmtree(bench.workdir.root / "variables")
    assert bench.run("init") == 1
    assert "bwrap: Can't find source path" in bench.output()


def test_what_the_setting_comes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_walls("none") == Walls(None, "TERRAFORM_SANDBOX is none.")
    assert not find_walls("bwrap").refused
    monkeypatch.setattr(walls, "_tried", lambda: Walls(None, "It does not work."))
    assert find_walls("auto") == Walls(None, "It does not work.", demanded=False)
    assert not find_walls("auto").refused and find_walls("bwrap").refused


@pytest.fixture
def bwrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of bwrap, in a process that does not know yet whether there is one."""
    program = tmp_path / "bwrap"

    def put(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setattr(walls, "find", lambda: str(program))
    monkeypatch.setattr(walls, "_known", [])
    monkeypatch.setattr(walls, "_PAUSE", 0)
    return put


def test_only_a_missing_bwrap_and_its_own_words_mean_that_there_is_no_sandbox(
    bwrap: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap("echo 'bwrap: No permissions to create new namespace.' >&2; exit 1")
    found = find_walls("auto")
    assert (found.bwrap, found.unknown, found.refused) == (None, False, False)
    assert found.why.endswith("cannot make a sandbox here: bwrap: No permissions to create new namespace.")
    bwrap("exit 0")
    assert find_walls("auto") == found, "known is known"
    monkeypatch.setattr(walls, "_known", [])
    monkeypatch.setattr(walls, "find", lambda: None)
    assert "not installed" in find_walls("auto").why and not find_walls("auto").refused


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 60", "gave no answer within"),
        ("kill -9 $$", "ended with -9."),
        ("exit 1", "ended with 1."),
        ("exit 127", "ended with 127."),
        ("echo 'bwrap: Creating new namespace failed: Resource temporarily unavailable' >&2; exit 1", "unavailable."),
        ("echo 'bwrap: Cannot allocate memory' >&2; exit 1", "allocate memory."),
    ],
)
@pytest.mark.parametrize("setting", ["auto", "bwrap"])
def test_a_fault_that_may_pass_is_not_kept_and_nothing_runs_meanwhile(
    bwrap: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, setting: str, script: str, words: str
) -> None:
    monkeypatch.setattr(walls, "_TRY_SECONDS", 0.2 if "sleep" in script else 20)
    bwrap(script)
    found = find_walls(setting)
    assert found.bwrap is None and found.unknown and found.refused
    assert found.why.startswith("Whether a sandbox can be made could not be found out: ") and words in found.why
    bwrap("exit 0")
    assert find_walls(setting).bwrap


def test_a_program_that_cannot_be_started_says_nothing_of_the_machine(
    bwrap: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap("exit 0")

    def none_left(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", none_left)
        assert find_walls("auto").refused and "Resource temporarily unavailable" in find_walls("auto").why
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", none_left)
        assert find_walls("auto").refused
    assert find_walls("auto").bwrap


def test_it_is_tried_again_before_a_phase_is_refused(bwrap: Callable[[str], None], tmp_path: Path) -> None:
    bwrap(f'echo x >> {tmp_path}/tried; test "$(wc -l < {tmp_path}/tried)" = 3')
    assert find_walls("auto").unknown
    assert find_walls("auto", tries=3).bwrap
    assert (tmp_path / "tried").read_text() == "x\n" * 3


def test_the_data_folder_is_hidden_wherever_it_lies(tmp_path: Path) -> None:
    home = tmp_path / "opt" / "lockstep" / "data"
    root = home / "work" / "phase-1-1"
    root.mkdir(parents=True)
    command = Sandbox("bwrap", root, home, (tmp_path / "opt",)).command(["true"], cwd=root, env={})
    command.close()
    hiding = command.argv.index(str(home))
    assert command.argv[hiding - 1] == "--tmpfs"
    assert command.argv.index(str(tmp_path / "opt")) < hiding < command.argv.index(str(root / "state"))


def test_the_filter_knows_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.program("riscv64") is None
    for machine in ("x86_64", "aarch64"):
        found = seccomp.program(machine)
        assert found is not None and len(found) % 8 == 0 and len(found) // 8 < 256


UNPRIVILEGED = """
import json, os, sys, time
from pathlib import Path
from services.execution import terraform as tf
from services.execution.sandbox import Sandbox
from services.execution.walls import find_walls
root = Path(sys.argv[1]) / "data" / "work" / "phase-1-1"
for name in ("config", "state", "variables", "home", "tmp", "control"):
    (root / name).mkdir(mode=0o700, parents=True)
(root.parents[1] / "secret_key").write_text("canary")
(root / "config" / "main.tf").write_text(sys.argv[2])
walls = find_walls("auto")
print(walls.why, flush=True)
for args in (["init"], ["apply", "-auto-approve", "-no-color"]):
    child = tf.start(tf.locate(sys.argv[3]), args, cwd=root / "config", spool=root / "spool", control=root / "control",
                     env={"PATH": os.environ["PATH"], "HOME": str(root / "home"), "TMPDIR": str(root / "tmp")},
                     sandbox=Sandbox(walls.bwrap, root, root.parents[1]))
    print("exit", child.wait(60), child.init is not None, child.running())
print((root / "spool").read_text())
"""


def test_it_works_for_any_user(tmp_path: Path, any_terraform: tf.Terraform) -> None:
    """In a user namespace of its own, with the worker's user; by Debian's Python, which everybody can start."""
    if os.geteuid() != 0:
        pytest.skip("every other test of this file shows it")
    folder = tmp_path / "app"
    shutil.copytree(TOP / "services" / "execution", folder / "services" / "execution")
    (folder / "services" / "__init__.py").touch()
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/tmp") and path.is_relative_to("/tmp"):
            path.chmod(0o755)
    text = (
        f"id -u; cat /proc/self/status /proc/self/limits; ls -a {home}/data; cat {home}/data/secret_key; "
        "unshare -U true || echo no-user-namespace; setsid sleep 600 >/dev/null 2>&1 & true"
    )
    script = ["/usr/bin/python3", "-c", UNPRIVILEGED, str(home), PROVISIONER % json.dumps(text), any_terraform.argv[0]]
    answer = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.stdout.count("exit 0 True False") == 2, answer.stdout + answer.stderr
    for line in ("NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Seccomp:\t2", "no-user-namespace", ": 65534"):
        assert line in answer.stdout, line
    assert "Max processes             4096" in answer.stdout
    assert "canary" not in answer.stdout


def test_the_user_of_a_root_worker() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root changes to another user")
    first, number = sandbox._uids()
    one, two = (Sandbox("bwrap", Path(f"/data/work/phase-{phase}-1"), Path("/data")).uid for phase in (1, 2))
    assert one is not None and two is not None and one != two
    assert first <= one < first + number
