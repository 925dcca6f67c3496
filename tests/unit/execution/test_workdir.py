"""The working directory, with real terraform: state, saved plan, variables, lock file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from services.execution import terraform as tf
from services.execution.workdir import OVERRIDE, BrokenValue, Workdir, WorkdirError
from tests.unit.execution.conftest import Bench, MakeBench

ONE = 'resource "terraform_data" "one" { input = "%s" }\n'
SHOW = 'output "shown" { value = var.x }\nresource "terraform_data" "one" { input = var.x }\n'


def state_of(bench: Bench) -> dict[str, object]:
    state: dict[str, object] = json.loads(bench.workdir.state_path.read_bytes())
    return state


def carry_over(planned: Bench, applied: Bench, state: bytes | None) -> None:
    """What the worker does between two phases: plan and lock file go along, the plan's folder goes away."""
    applied.workdir.plan_path.write_bytes(planned.workdir.plan_path.read_bytes())
    applied.workdir.place_lock_file(planned.workdir.lock_file_bytes())
    planned.workdir.remove()
    assert applied.workdir.place_state(state)
    applied.init()
    applied.workdir.check_backend(True)


@pytest.mark.parametrize("directory", ["", "live/eu/network"])
def test_a_plan_is_applied_in_another_working_directory(
    terraform: tf.Terraform, make_bench: MakeBench, directory: str
) -> None:
    text = ONE % "1" + ('module "m" { source = "../../../modules/m" }\n' if directory else "")
    planned, applied = (make_bench(terraform, text, directory) for _ in range(2))
    if directory:
        for bench in (planned, applied):
            (bench.workdir.config / "modules" / "m").mkdir(parents=True)
            (bench.workdir.config / "modules" / "m" / "main.tf").write_text(ONE % "of the module")
    assert planned.workdir.place_state(None)
    planned.init()
    planned.workdir.check_backend(True)
    assert planned.plan() == 2
    carry_over(planned, applied, None)
    assert applied.apply() == 0, applied.output()
    assert len(json.loads(applied.workdir.state_path.read_bytes())["resources"]) == (2 if directory else 1)
    assert not planned.workdir.root.exists()
    assert [p for p in applied.workdir.root.rglob("*.tfstate") if ".terraform" not in p.parts] == [
        applied.workdir.state_path
    ]


def test_a_stale_plan_is_refused_in_another_working_directory(terraform: tf.Terraform, make_bench: MakeBench) -> None:
    first = make_bench(terraform, ONE % "1")
    first.workdir.place_state(None)
    first.init()
    assert (first.plan(), first.apply()) == (2, 0)
    state = state_of(first)
    for changes, message in (
        ({"serial": 99}, "Saved plan is stale"),
        ({"lineage": "another"}, "does not match the given state"),
    ):
        planned, applied = (make_bench(terraform, ONE % "2") for _ in range(2))
        planned.workdir.place_state(json.dumps(state).encode())
        planned.init()
        assert planned.plan() == 2
        carry_over(planned, applied, json.dumps(state | changes).encode())
        assert applied.apply() == 1
        assert message in applied.output()
        assert state_of(applied) == state | changes


def test_the_files_of_the_configuration_do_not_outrank_the_variables(
    terraform: tf.Terraform, make_bench: MakeBench
) -> None:
    bench = make_bench(terraform, 'variable "x" {}\nvariable "y" {}\nvariable "z" {}\nvariable "number" {}\n' + SHOW)
    for name in ("terraform.tfvars", "zzzz.auto.tfvars"):
        bench.write('x = "of the archive"\ny = "of the archive"\n', name)
    bench.write('{"x": "of the archive"}', "zzzz.auto.tfvars.json")
    bench.write('output "all" { value = jsonencode([var.x, var.y, var.z, var.number + 1]) }', "outputs.tf")
    literal = 'ours ${x} %{ if } "q" \\ é\nsecond line'
    heredoc = '[\n  { a = "}" }, # comment\n  <<-EOT\n    ) text\n  EOT\n]'
    bench.workdir.write_variables({"x": literal, "number": "41", "undeclared": "u"}, {"y": heredoc, "z": "{a=1}"})
    bench.workdir.place_state(None)
    bench.init()
    assert bench.plan() == 2, bench.output()
    assert "Value for undeclared variable" in bench.output()
    assert bench.workdir.apply_arguments() == []
    assert bench.apply() == 0, bench.output()
    outputs = json.loads(bench.workdir.state_path.read_bytes())["outputs"]
    assert json.loads(outputs["all"]["value"]) == [literal, [{"a": "}"}, ") text\n"], {"a": 1}, 42]


def test_ephemeral_variables_reach_the_apply(terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(terraform, 'variable "x" {}\nvariable "token" {\n  ephemeral = true\n}\n' + SHOW)
    bench.workdir.write_variables({"x": "1", "token": "t0ken"}, {})
    bench.workdir.place_state(None)
    bench.init()
    assert bench.plan() == 2, bench.output()
    assert [Path(argument).name for argument in bench.workdir.apply_arguments()] == ["token.tfvars.json"]
    assert bench.run("apply", "-no-color", str(bench.workdir.plan_path), step="without") == 1
    assert bench.apply() == 0, bench.output()


def test_broken_values_name_their_variable(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    bench = make_bench(any_terraform, 'variable "x" {}\n' + SHOW)
    with pytest.raises(BrokenValue, match="variable x is not one") as refusal:
        bench.workdir.write_variables({"y": "1"}, {"x": '"s3cret")\nother = (1'})
    assert "s3cret" not in str(refusal.value)
    assert bench.workdir.plan_arguments() == []
    bench.workdir.place_state(None)
    bench.init()
    bench.workdir.write_variables({}, {"x": "[1 2]"})
    assert bench.plan() == 1
    assert "x.tfvars line 2" in bench.output()
    with pytest.raises(WorkdirError):
        bench.workdir.write_variables({"../x": "1"}, {})


def test_an_own_backend_is_left_alone(any_terraform: tf.Terraform, make_bench: MakeBench) -> None:
    own = make_bench(any_terraform, 'terraform {\n  backend "inmem" {}\n}\n')
    assert not own.workdir.place_state(b"{}")
    assert not own.workdir.state_path.exists() and not (own.workdir.cwd / OVERRIDE).exists()
    with pytest.raises(WorkdirError):
        own.workdir.check_backend(False)
    own.init()
    own.workdir.check_backend(False)
    with pytest.raises(WorkdirError):
        own.workdir.check_backend(True)


def test_a_backend_that_is_said_to_be_elsewhere_and_is_a_file_here_is_refused(
    terraform: tf.Terraform, make_bench: MakeBench
) -> None:
    """The file would go with the directory."""
    bench = make_bench(terraform, 'terraform {\n  backend "local" {}\n}\n')
    bench.init()
    with pytest.raises(WorkdirError):
        bench.workdir.check_backend(False)


def test_a_local_backend_and_a_file_of_our_name_are_overridden(
    any_terraform: tf.Terraform, make_bench: MakeBench
) -> None:
    bench = make_bench(any_terraform, 'terraform {\n  backend "local" {\n    path = "lost"\n  }\n}\n' + ONE % "1")
    bench.write("locals {}\n", OVERRIDE)
    assert bench.workdir.place_state(None)
    bench.init()
    bench.workdir.check_backend(True)
    assert (bench.plan(), bench.apply()) == (2, 0)
    assert bench.workdir.state_path.exists() and not (bench.workdir.cwd / "lost").exists()


def test_folders_are_private_made_once_and_removed(tmp_path: Path) -> None:
    workdir = Workdir.create(tmp_path / "data", 7, 1)
    for path in (workdir.root.parent, workdir.root, *workdir.root.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        Workdir.create(tmp_path / "data", 7, 1)
    assert Workdir.existing(tmp_path / "data", 7, 1) == workdir
    workdir.place_lock_file(b"lock")
    assert workdir.lock_file_bytes() == b"lock"
    assert stat.S_IMODE((workdir.cwd / ".terraform.lock.hcl").stat().st_mode) == 0o600
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (workdir.config / "link").symlink_to(outside)
    (workdir.config / "read-only").mkdir()
    (workdir.config / "read-only" / "file").touch(0o400)
    (workdir.config / "read-only").chmod(0o500)
    workdir.remove()
    assert not workdir.root.exists() and (outside / "kept").exists()
    workdir.remove()


@pytest.mark.parametrize("directory", ["..", "a/../..", "/etc", "a/..", "a\0b"])
def test_directories_outside_are_refused(tmp_path: Path, directory: str) -> None:
    with pytest.raises(WorkdirError):
        Workdir.create(tmp_path, 1, 1, directory)


def test_a_missing_or_linked_directory_is_refused(tmp_path: Path) -> None:
    workdir = Workdir.create(tmp_path, 1, 1, "linked")
    with pytest.raises(WorkdirError, match="no folder"):
        _ = workdir.cwd
    os.symlink("/", workdir.config / "linked")
    with pytest.raises(WorkdirError, match="no folder"):
        _ = workdir.cwd
