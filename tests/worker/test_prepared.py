"""What a plan's init made serves the apply on the same machine, for as long as that is safe and sensible."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extensions import db
from models import Run
from policy.lifecycle import RunStatus
from services import runs
from services.execution import prepared, reconcile, steps
from services.execution.work import Work
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

INIT, TAKEN = "Terraform has been successfully initialized!", "as the plan’s init left them on this machine"
CHANGE = " \n\n"
MODULE = {"main.tf": 'module "inner" {\n  source = "./inner"\n}\n', "inner/main.tf": ONE}


def kept(bench: Bench, run: Run) -> Path:
    return bench.home / "work" / f"kept-{run.id}"


def apply(bench: Bench, run: Run) -> str:
    """Confirm and apply; the apply's log."""
    runs.confirm(factories.member(), run)
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error
    return lab.log_of(run.apply)


@pytest.mark.parametrize("configuration", [ONE, MODULE], ids=["one file", "with a module"])
def test_the_apply_has_no_init_of_its_own(bench: Bench, configuration: str | dict[str, str]) -> None:
    run = bench.planned(configuration)
    assert INIT in lab.log_of(run.plan) and kept(bench, run).is_dir()
    log = apply(bench, run)
    assert TAKEN in log and INIT not in log and "Apply complete! Resources: 1 added" in log
    assert not kept(bench, run).exists()


def test_without_it_there_is_an_init_as_ever(bench: Bench) -> None:
    run = bench.planned(ONE)
    prepared.drop(run.id)
    log = apply(bench, run)
    assert INIT in log and TAKEN not in log


def test_a_provider_whose_mirror_is_gone_asks_for_an_init(bench: Bench) -> None:
    run = bench.planned(ONE)
    folder = kept(bench, run) / "providers" / "registry.terraform.io" / "hashicorp" / "any" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "linux_amd64").symlink_to(bench.home / "no-such-mirror")
    assert INIT in apply(bench, run)


def test_what_may_hold_a_password_is_not_kept(bench: Bench) -> None:
    run = bench.planned(f"# a module of https://somebody:hunter22@git.example.com/it.git\n{ONE}")
    assert not kept(bench, run).exists()
    assert INIT in apply(bench, run)


def test_a_backend_of_the_configurations_own_is_found_anew(bench: Bench) -> None:
    own = f'terraform {{\n  backend "http" {{\n    address = "http://127.0.0.1:9/state"\n  }}\n}}\n{ONE}'
    run = bench.run(own)
    bench.work(run.plan)  # nobody answers there
    assert not kept(bench, run).exists()


def laid(monkeypatch: pytest.MonkeyPatch, lay: Callable[[Path], object]) -> None:
    """Let `lay` do something to the folder that init made, before it is kept."""
    real = prepared.keep

    def lay_first(work: Work) -> None:
        lay(work.workdir.terraform_data)
        real(work)

    monkeypatch.setattr(prepared, "keep", lay_first)


TRAPS: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "many files": lambda folder: [(folder / str(number)).write_text("") for number in range(60)],
    "a large file": lambda folder: (folder / "large").write_bytes(b"x" * 5000),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_is_not_to_be_copied_asks_for_an_init(bench: Bench, monkeypatch: pytest.MonkeyPatch, trap: str) -> None:
    monkeypatch.setattr(prepared, "MOST", 50)
    monkeypatch.setattr(prepared, "MOST_BYTES", 4000)
    laid(monkeypatch, TRAPS[trap])
    run = bench.planned(ONE)
    assert not kept(bench, run).exists() and INIT in apply(bench, run)


def test_a_link_in_the_way_is_not_followed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def lay(folder: Path) -> None:
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")

    laid(monkeypatch, lay)
    run = bench.planned(ONE)
    assert not kept(bench, run).exists() and INIT in apply(bench, run)


def test_what_the_plan_changes_afterwards_is_not_what_the_apply_gets(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its providers, and programs that the configuration starts, could write there."""
    real = steps.plan_arguments

    def change(work: Work) -> list[str]:
        with open(work.workdir.terraform_data / "modules" / "modules.json", "a") as file:
            file.write(CHANGE)
        with open(work.workdir.cwd / ".terraform.lock.hcl", "a") as file:
            file.write(CHANGE)
        return real(work)

    monkeypatch.setattr(steps, "plan_arguments", change)
    run = bench.run(MODULE)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
    assert CHANGE not in (kept(bench, run) / "modules" / "modules.json").read_text()
    assert run.lock_blob_id is None  # nothing is locked where no provider is needed
    assert "Apply complete! Resources: 1 added" in apply(bench, run)


def test_who_discards_leaves_nothing(bench: Bench) -> None:
    run = bench.planned(ONE)
    runs.discard(factories.member(), run)
    assert kept(bench, run).exists()
    db.session.commit()
    reconcile.look_around()
    assert not kept(bench, run).exists()


def test_it_is_kept_for_an_hour(bench: Bench) -> None:
    run = bench.planned(ONE)
    db.session.commit()
    reconcile.look_around()
    assert kept(bench, run).exists()
    before = kept(bench, run).stat().st_mtime - prepared.SECONDS
    os.utime(kept(bench, run), (before, before))
    db.session.commit()
    reconcile.look_around()
    assert not kept(bench, run).exists()
    assert INIT in apply(bench, run)


def test_nothing_half_removed_is_taken(bench: Bench) -> None:
    run = bench.planned(ONE)
    kept(bench, run).rename(kept(bench, run).with_name(f"kept-{run.id}.gone"))
    assert INIT in apply(bench, run)
    db.session.commit()
    reconcile.look_around()
    assert [name for name in os.listdir(bench.home / "work") if name.startswith("kept-")] == []


def test_a_sweep_does_not_take_it_from_the_apply_that_has_just_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may look around between the moment when the apply is taken and the one when it takes this."""
    run = bench.planned(ONE)
    real = prepared.take

    def take(work: Work) -> None:
        prepared.sweep()
        db.session.commit()
        real(work)

    monkeypatch.setattr(prepared, "take", take)
    log = apply(bench, run)
    assert TAKEN in log and INIT not in log
