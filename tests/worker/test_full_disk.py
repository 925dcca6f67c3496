"""A disk that fills up under a running terraform ends the log, not the run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from extensions import db
from models import LogChunk, Phase, StateVersion
from policy.lifecycle import RunStatus
from services.execution import disk
from services.execution.disk import SAID, DiskWatch
from services.storage import logs
from tests import factories
from tests.support import lab
from tests.worker.configurations import hcl
from tests.worker.conftest import Bench


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """A file system of 2 MB for the working directories."""
    folder = bench.home / "work"
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    options = ("-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder))
    subprocess.run(["mount", *options], check=True)
    yield folder
    # What stood by for a command that did not come ends a moment after it was sent away.
    gone = ["umount", str(folder)]
    lab.until(lambda: subprocess.run(gone, stderr=subprocess.DEVNULL).returncode == 0, "its end", seconds=20)


def filling(gate: Path) -> str:
    """A resource whose creation fills the disk, prints, and makes room when the file ``gate`` is there."""
    command = (
        "echo before; dd if=/dev/zero of=filler bs=4096 2>/dev/null; seq 20000;"
        f" for _ in $(seq 600); do test -e {gate} && break; sleep 0.1; done; rm filler; echo after"
    )
    return (
        f'resource "terraform_data" "one" {{\n  provisioner "local-exec" {{\n    command = {hcl(command)}\n  }}\n}}\n'
    )


def said(phase: Phase) -> list[str | None]:
    """The tones of the lines that say that the disk is full."""
    query = select(LogChunk.tone).where(LogChunk.phase_id == phase.id, LogChunk.data == f"{SAID}\n".encode())
    return list(db.session.scalars(query))


@pytest.mark.terraform
def test_the_log_says_so_once_and_the_run_ends_as_terraform_ends(
    bench: Bench, small_disk: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(filling(gate))
    apply = run.apply
    beside = bench.start(apply)
    lab.until(lambda: said(apply), "the log says that the disk is full")
    gate.touch()
    beside.result()
    assert lab.status(run) is RunStatus.APPLIED, run.error
    assert said(apply) == ["error"]
    log = lab.log_of(apply)
    before, after = (log.index(f"(local-exec): {word}") for word in ("before", "after"))
    assert before < log.index(SAID) < after < log.index("Apply complete!")


def test_a_worker_that_takes_over_does_not_say_it_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = factories.run(bench.environment, RunStatus.APPLYING).apply

    def say(text: str, tone: str) -> None:
        logs.say(phase.id, text, tone=tone)
        db.session.commit()

    room = {"bytes": 1 << 30}
    monkeypatch.setattr(disk, "free", lambda folder: room["bytes"])
    first = DiskWatch(phase.id, bench.home / "spool", say)
    first.look()
    assert said(phase) == []
    room["bytes"] = 0
    first.look()
    first.look()
    DiskWatch(phase.id, bench.home / "spool", say).look()
    assert said(phase) == ["error"]


def test_a_line_that_could_not_be_stored_is_said_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = factories.run(bench.environment, RunStatus.APPLYING).apply
    tries: list[str] = []

    def say(text: str, tone: str) -> None:
        tries.append(text)
        if len(tries) > 1:
            logs.say(phase.id, text, tone=tone)
            db.session.commit()

    monkeypatch.setattr(disk, "free", lambda folder: 0)
    watch = DiskWatch(phase.id, bench.home / "spool", say)
    for _ in range(3):
        watch.look()
    assert tries == [SAID, SAID] and said(phase) == ["error"]


@pytest.mark.terraform
def test_an_apply_has_room_for_its_state_on_a_full_disk(
    bench: Bench, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings(monkeypatch, terraform_sandbox="none")  # the provisioner fills a disk that it could not see inside
    filler = small_disk / "filler"
    fill = f"dd if=/dev/zero of={filler} bs=1024 2>/dev/null; sleep 1"
    large = "x" * 9000  # more than the page that an empty file may have anyway
    provisioner = f'provisioner "local-exec" {{\n    command = {hcl(fill)}\n  }}'
    run = bench.confirmed(f'resource "terraform_data" "one" {{\n  input = "{large}"\n  {provisioner}\n}}\n')
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error
    assert said(run.apply) == ["error"]
    [state] = db.session.query(StateVersion)
    assert state.resources == 1 and state.size > len(large)
    filler.unlink()
