"""What killed workers leave on the disk: looked after directory by directory, and never a reason to stop."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from extensions import db
from models import Phase, PhaseStatus, Run, StateSource, StateVersion
from policy.lifecycle import RunStatus
from services import clock, doctor, housekeeping, queue, states
from services.execution import inside, leftovers, prepared, reconcile, steps, terraform, walls
from services.execution.summary import SHOW_SECONDS, summarize
from services.execution.workdir import Workdir
from tests import factories
from tests.worker.conftest import Bench

AGO = timedelta(minutes=5)


def left(bench: Bench, *, applied: bool = True) -> Workdir:
    """The working directory of an apply that ended five minutes ago, or of its plan."""
    run = bench.run("")
    phase = run.apply if applied else run.plan
    ended = {"status": PhaseStatus.FINISHED, "queued_at": clock.now() - AGO, "started_at": clock.now()}
    ended["finished_at"] = clock.now() - AGO
    db.session.execute(update(Phase).where(Phase.run_id == run.id).values(**ended))
    db.session.execute(update(Run).where(Run.id == run.id).values(status=RunStatus.APPLIED))
    bench.environment.active_run_id = None
    db.session.commit()
    db.session.refresh(phase)
    workdir = steps.workdir_of(run, phase)
    workdir.make()
    if applied:
        record: dict[str, Any] = dict.fromkeys(("pid", "start_time", "wrapper_pid", "wrapper_start_time"), 2**22 + 1)
        record |= {"boot_id": "of another boot", "started_at": 1, "argv": []}
        (workdir.control / "apply.pid").write_text(json.dumps(record))
    db.session.commit()
    return workdir


def test_a_removal_that_was_broken_off_stops_no_worker(bench: Bench) -> None:
    """As an older worker left it: its configuration is gone, and its records are not."""
    workdir = left(bench)
    shutil.rmtree(workdir.config)
    assert leftovers.only_copies() == ([], [])
    assert [finding for finding in doctor.examine() if finding.subject == "States"] == []
    reconcile.look_around()
    assert bench.workdirs() == []


def test_a_state_beside_a_broken_off_removal_is_still_looked_at(bench: Bench) -> None:
    workdir = left(bench)
    shutil.rmtree(workdir.config)
    workdir.state_path.write_text("half of a state")
    assert leftovers.only_copies() == ([workdir.root], [])
    reconcile.look_around()
    assert bench.workdirs() == [workdir.root.name]
    workdir.remove()


def test_a_state_is_kept_where_the_run_wrote_a_backend_into_its_own_configuration(bench: Bench) -> None:
    """What counts is what the configuration said when terraform began."""
    workdir = left(bench)
    (workdir.cwd / "backend.tf").write_text('terraform {\n  backend "s3" {}\n}\n')
    workdir.state_path.write_text('{"version": 4, "serial": 1, "lineage": "l", "outputs": {}, "resources": []}')
    assert leftovers.only_copies() == ([workdir.root], [])
    reconcile.look_around()
    assert [version.serial for version in db.session.query(StateVersion)] == [1]
    assert bench.workdirs() == []


def test_a_killed_removal_leaves_nothing_that_looks_like_a_working_directory(bench: Bench) -> None:
    workdir = left(bench)
    pid = os.fork()
    if pid == 0:
        inside._unlink_all = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
        try:
            workdir.remove()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert bench.workdirs() == [f"{workdir.root.name}.gone"]
    workdir.make()  # a phase that is taken again has the name to itself
    workdir.remove()
    assert bench.workdirs() == []


def test_what_is_left_of_a_removal_is_removed(bench: Bench) -> None:
    workdir = left(bench)
    workdir.root.rename(workdir.root.with_name(f"{workdir.root.name}.gone"))
    assert leftovers.only_copies() == ([], [])
    reconcile.look_around()
    assert bench.workdirs() == []


def test_two_may_remove_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir, real = left(bench), inside._open_up

    def lose(name: str, folder: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(inside, "_open_up", real)
            inside.remove(workdir.root.with_name(f"{workdir.root.name}.gone"))
        real(name, folder)

    monkeypatch.setattr(inside, "_open_up", lose)
    workdir.remove()
    assert bench.workdirs() == []


def of_serial(serial: int) -> bytes:
    state = {"version": 4, "serial": serial, "lineage": "8a2f", "terraform_version": "1.11.4", "resources": []}
    return json.dumps(state).encode()


def upload(bench: Bench, serial: int) -> None:
    """By a person, whatever was there before."""
    prepared = states.prepare(bench.environment.id, of_serial(serial))
    user = factories.person("alice")
    states.save(bench.environment.id, prepared, source=StateSource.UPLOAD, user=user, force=True)
    db.session.commit()


def serials(bench: Bench) -> list[int]:
    found = [version.serial for version in states.versions(bench.environment)][::-1]
    db.session.rollback()
    return found


@pytest.mark.parametrize("moved_on", [False, True], ids=["", "moved on"])
def test_a_state_that_only_an_older_version_has_is_not_lost(bench: Bench, moved_on: bool) -> None:
    """Version 1 is again what the run left, but since then somebody had put another state in its place."""
    upload(bench, 2)
    upload(bench, 1)
    workdir = left(bench)
    workdir.state_path.write_bytes(of_serial(2))
    if moved_on:
        upload(bench, 9)
    reconcile.look_around()
    assert serials(bench) == ([2, 1, 9] if moved_on else [2, 1, 2])
    assert bench.workdirs() == ([workdir.root.name] if moved_on else [])
    if moved_on:
        assert leftovers.only_copies() == ([workdir.root], [])
        workdir.remove()


@pytest.mark.parametrize("serial", [3, 4], ids=["as it began", "as it ended"])
def test_a_state_that_was_stored_is_known_under_newer_ones(bench: Bench, serial: int) -> None:
    upload(bench, 3)
    workdir = left(bench)
    workdir.state_path.write_bytes(of_serial(serial))
    states.store(db.session.query(Run).one(), of_serial(4))
    db.session.commit()
    upload(bench, 9)
    assert leftovers.only_copies() == ([], [])
    db.session.rollback()
    reconcile.look_around()
    assert serials(bench) == [3, 4, 9]
    assert bench.workdirs() == []


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError, ValueError])
def test_one_that_cannot_be_removed_keeps_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    first, second = left(bench), left(bench)
    real = Workdir.remove

    def remove(self: Workdir) -> None:
        if self.root == first.root:
            raise error("secret")
        real(self)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Workdir, "remove", remove)
        reconcile.look_around()
    assert bench.workdirs() == [first.root.name] and second.root != first.root
    assert f"cannot be removed: {error.__name__}" in caplog.text and "secret" not in caplog.text
    reconcile.look_around()
    assert bench.workdirs() == []


def test_the_doctor_tells_what_it_cannot_look_at(bench: Bench) -> None:
    workdir = left(bench)
    (workdir.control / "apply.pid").write_text("{")
    (told,) = [finding for finding in doctor.examine() if finding.subject == "States"]
    assert told.status is doctor.Status.WARNING and "cannot be looked at (JSONDecodeError)" in told.detail
    reconcile.look_around()
    assert bench.workdirs() == [workdir.root.name]
    workdir.remove()


@pytest.mark.parametrize("part", ["_queued", "_lapsed", "_pending", "leftovers.sweep", "prepared.sweep"])
def test_a_part_that_fails_stops_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    done: list[str] = []
    parts = {"_queued": reconcile, "_lapsed": reconcile, "_pending": reconcile}

    def stand(name: str) -> Any:
        def sweep() -> None:
            done.append(name)
            if name == part:
                raise RuntimeError("secret")

        return sweep

    for name, module in parts.items():
        monkeypatch.setattr(module, name, stand(name))
    monkeypatch.setattr(leftovers, "sweep", stand("leftovers.sweep"))
    monkeypatch.setattr(prepared, "sweep", stand("prepared.sweep"))
    monkeypatch.setattr(housekeeping, "tidy", lambda seconds: done.append("tidy"))
    reconcile.look_around()
    assert done == ["_queued", "_lapsed", "_pending", "leftovers.sweep", "prepared.sweep", "tidy"]
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text


def test_nothing_that_fails_around_it_ends_a_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "sign", lambda *_, **__: [][0])
    reconcile.look_around()


def test_a_plan_that_is_being_read_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`terraform show` may take minutes after the end of its phase, and lasts no longer than its worker."""
    looked: list[bool] = []
    workdir = left(bench, applied=False)
    phase_id = int(workdir.root.name.split("-")[1])

    def show(*_: Any, **__: Any) -> bytes:
        db.session.commit()
        reconcile.look_around()
        looked.append(workdir.root.exists())
        raise terraform.TerraformFailed("show", 1)

    monkeypatch.setattr(terraform, "capture", show)
    work = steps.of_ended(db.session.get_one(Phase, phase_id), workdir.root)
    work.terraform, work.walls = terraform.Terraform(("terraform",), "terraform"), walls.Walls(None)
    summarize(work, counted=True)
    assert looked == [True]
    (mark,) = workdir.control.iterdir()
    long_ago = mark.stat().st_mtime - SHOW_SECONDS - 30
    os.utime(mark, (long_ago, long_ago))
    reconcile.look_around()
    assert bench.workdirs() == [], "one that hangs is not waited for"


def test_a_plan_whose_reader_was_killed_is_removed(bench: Bench) -> None:
    workdir = left(bench, applied=False)
    pid = os.fork()
    if pid == 0:
        try:
            workdir.mark_read()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert list(workdir.control.iterdir())
    reconcile.look_around()
    assert bench.workdirs() == []


def test_a_folder_of_another_name_is_nobodys(bench: Bench) -> None:
    path: Path = bench.home / "work" / "phases"
    path.mkdir(parents=True)
    reconcile.look_around()
    assert path.exists()
