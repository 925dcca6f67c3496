"""A worker that is killed: terraform goes on, and another worker brings the phase to its end. No step starts twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from extensions import db
from models import Phase, PhaseStatus, Run, StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import archive_child, archives, queue, runs
from services.execution import job, lease, prepared, reconcile, steps, terraform, walls
from services.execution.workdir import Workdir
from services.storage import logs
from tests import factories
from tests.support import lab
from tests.support.silent import reads, slow_remote_state
from tests.worker.configurations import ONE, TWO, hcl, held
from tests.worker.conftest import Bench
from tests.worker.lost import adopt, horse, kill, lapse

__all__ = ["horse"]

pytestmark = pytest.mark.terraform


def control(bench: Bench) -> Path:
    (workdir,) = bench.workdirs()
    return bench.home / "work" / workdir / "control"


def assert_told_once(run: Run) -> None:
    log = lab.log_of(run.apply)
    for line in ("terraform_data.first: Creating...", "terraform_data.second: Creating...", "Apply complete!"):
        assert log.count(line) == 1, log
    assert log.index("The worker was lost") < log.index("Apply complete!")


def test_a_running_terraform_is_followed_again(bench: Bench, horse: Callable[[Phase], int], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    lapse(run.apply)
    beside = lab.Beside(bench.app, lambda phase=run.apply.id: job.adopt_phase(phase))  # type: ignore[misc]
    lab.until(lambda: "The worker was lost" in lab.log_of(run.apply), "the phase is taken over")
    assert lab.status(run) is RunStatus.APPLYING
    gate.touch()
    beside.result()
    assert lab.status(run) is RunStatus.APPLIED, run.error
    assert_told_once(run)
    assert [version.resources for version in db.session.query(StateVersion)] == [2]
    assert run.applied_counts is not None and run.applied_counts["add"] == 2


def test_a_killed_process_of_this_machine_is_not_waited_for(
    bench: Bench, horse: Callable[[Phase], int], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    phase_id = run.apply.id
    db.session.commit()
    reconcile.take_up()
    assert ("services.execution.job.adopt_phase", [phase_id]) not in lab.queued_jobs(), "it lives"
    kill(pid)
    db.session.commit()
    reconcile.take_up()
    assert ("services.execution.job.adopt_phase", [phase_id]) in lab.queued_jobs()
    gate.touch()
    db.session.commit()
    job.adopt_phase(phase_id)
    assert lab.status(run) is RunStatus.APPLIED, run.error
    assert_told_once(run)


def test_a_terraform_that_ended_meanwhile_is_wound_up(
    bench: Bench, horse: Callable[[Phase], int], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    gate.touch()
    lab.until((control(bench) / "apply.exit").exists, "terraform ends by itself")
    assert adopt(bench, run.apply) is RunStatus.APPLIED, run.error
    assert_told_once(run)
    assert [version.resources for version in db.session.query(StateVersion)] == [2]


def test_a_terraform_that_vanished_is_told_and_its_state_is_kept(
    bench: Bench, horse: Callable[[Phase], int], tmp_path: Path
) -> None:
    run = bench.confirmed(held(tmp_path / "gate"))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    child = terraform.attach(control(bench), "apply")
    child.wrapper.signal(signal.SIGKILL)
    child.kill_session()
    lab.until(lambda: not child.running(), "terraform is gone")
    assert adopt(bench, run.apply) is RunStatus.INTERRUPTED
    assert run.error in lab.log_of(run.apply) and "saved up to serial" in run.error
    [state] = db.session.query(StateVersion)
    assert state.resources == 1
    known = run.interruption
    assert known is not None and (known["step"], known["begun"], known["rebooted"]) == ("apply", True, False)
    assert (known["serial"], known["done"], known["unsure"]) == (state.serial, 1, ["terraform_data.second"])
    assert known["lock"]["Operation"] == "OperationTypeApply"
    assert bench.environment.active_run_id is None
    told, phase_id = lab.log_of(run.apply), run.apply.id
    db.session.commit()
    for again in (job.run_phase, job.adopt_phase):
        again(phase_id)
    assert lab.status(run) is RunStatus.INTERRUPTED and lab.log_of(run.apply) == told, "it is never started again"


def test_a_cancel_of_an_apply_that_is_taken_over_waits_for_terraform(
    bench: Bench, horse: Callable[[Phase], int], tmp_path: Path
) -> None:
    """Also where the apply had an init of its own, which ended long ago and well."""
    run = bench.planned(held(tmp_path / "gate"))
    prepared.drop(run.id)
    runs.confirm(factories.member(), run)
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    child = terraform.attach(control(bench), "apply")
    runs.cancel(factories.member("bob"), run)
    assert adopt(bench, run.apply) is RunStatus.CANCELED
    assert not child.running()
    log = lab.log_of(run.apply)
    assert log.count("Initializing the backend") == log.count("Cancel requested by bob") == 1, log
    assert log.index("The worker was lost") < log.index("Interrupt received") < log.index("Canceled by bob"), log
    assert [version.resources for version in db.session.query(StateVersion)] == [2]  # the second one is tainted


def test_a_cancel_of_a_plan_that_is_taken_over_waits_for_terraform(bench: Bench, horse: Callable[[Phase], int]) -> None:
    with slow_remote_state() as (address, asked, answer):
        run = bench.run(reads(address) + ONE)
        pid = horse(run.plan)
        lab.until(asked.is_set, "terraform plans")
        kill(pid)
        child = terraform.attach(control(bench), "plan")
        runs.cancel(factories.member("bob"), run)
        lapse(run.plan)
        beside = lab.Beside(bench.app, lambda phase=run.plan.id: job.adopt_phase(phase))  # type: ignore[misc]
        lab.until(lambda: "terraform is asked to stop" in lab.log_of(run.plan), "the cancel is passed on")
        assert child.running() and lab.status(run) is RunStatus.PLANNING
        answer.set()
        beside.result()
    assert lab.status(run) is RunStatus.CANCELED and not child.running()


@pytest.mark.parametrize("own_init", [False, True])
def test_a_run_that_writes_a_backend_into_its_own_configuration_keeps_its_state_here(
    bench: Bench, horse: Callable[[Phase], int], tmp_path: Path, own_init: bool
) -> None:
    """As a configuration does that makes the bucket for its next state. What counts is what init found."""
    gate = tmp_path / "gate"
    command = hcl("printf 'terraform {\\n  backend \"s3\" {}\\n}\\n' > backend.tf; rm -rf .terraform")
    writes = f'resource "terraform_data" "next" {{\n  provisioner "local-exec" {{\n    command = {command}\n  }}\n}}\n'
    run = bench.planned(
        held(gate).replace("[terraform_data.first]", "[terraform_data.first, terraform_data.next]") + writes
    )
    if own_init:
        prepared.drop(run.id)
    runs.confirm(factories.member(), run)
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    assert (control(bench).parent / "config" / "backend.tf").exists()
    gate.touch()
    assert adopt(bench, run.apply) is RunStatus.APPLIED, run.error
    assert [version.resources for version in db.session.query(StateVersion)] == [3]


def lost_before(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies right before this step."""

    def die(*_: object) -> list[str]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    monkeypatch.setattr(f"services.execution.steps.{step}_arguments", die)


def test_a_step_that_never_began_is_started_with_the_long_lived_keys(
    bench: Bench, horse: Callable[[Phase], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.confirmed(TWO)
    with monkeypatch.context() as patch:
        lost_before("apply", patch)
        os.waitpid(horse(run.apply), 0)
    assert adopt(bench, run.apply) is RunStatus.APPLIED, run.error
    assert lab.log_of(run.apply).count("Apply complete!") == 1


@pytest.mark.parametrize("setting", ["auto", "bwrap"])
def test_a_phase_that_was_taken_over_starts_nothing_without_the_sandbox_it_needs(
    bench: Bench, horse: Callable[[Phase], int], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    run = bench.confirmed(TWO)
    prepared.drop(run.id)  # so that init is over when the worker is lost
    with monkeypatch.context() as patch:
        lost_before("apply", patch)
        os.waitpid(horse(run.apply), 0)
    bench.settings(monkeypatch, terraform_sandbox=setting)
    monkeypatch.setattr(walls, "_PAUSE", 0)
    found = walls.Walls(None, "It cannot be made.", unknown=setting == "auto")
    monkeypatch.setattr(walls, "_tried", lambda: found)
    assert adopt(bench, run.apply) is RunStatus.ERRORED
    assert run.error is not None and "It cannot be made. Nothing more was run." in run.error
    assert db.session.query(StateVersion).all() == []


@pytest.mark.parametrize("step", ["init", "apply"])
def test_credentials_that_went_with_the_worker_are_asked_for_again(
    bench: Bench, horse: Callable[[Phase], int], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(TWO)
    if step == "init":  # as on another machine than the plan's
        prepared.drop(run.id)
    lab.authenticate(run, bench.aws.code())
    with monkeypatch.context() as patch:
        lost_before(step, patch)
        os.waitpid(horse(run.apply), 0)
    assert adopt(bench, run.apply) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    assert "The worker was lost" in run.apply.gate_note and "enter a new code" in run.apply.gate_note
    assert "Apply complete!" not in lab.log_of(run.apply)
    assert run.apply.started_at is None, "nothing of it ran"
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancel_of_a_phase_that_lost_its_credentials_ends_the_run(
    bench: Bench, horse: Callable[[Phase], int], monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Left standing, it would stop what the next code starts."""
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(TWO)
    prepared.drop(run.id)
    lab.authenticate(run, bench.aws.code())
    with monkeypatch.context() as patch:
        lost_before("apply" if begun else "init", patch)
        os.waitpid(horse(run.apply), 0)
    runs.cancel(factories.member("bob"), run)
    assert adopt(bench, run.apply) is RunStatus.CANCELED
    assert run.apply.status is PhaseStatus.CANCELED and run.ended_by is not None and run.ended_by.name == "bob"
    assert (run.apply.started_at is None) is not begun, "its page says that nothing was applied"
    assert "Canceled by bob" in lab.log_of(run.apply) and "Apply complete!" not in lab.log_of(run.apply)
    assert bench.environment.active_run_id is None


def test_removing_what_was_unpacked_keeps_the_lease_and_lets_others_write(
    bench: Bench, horse: Callable[[Phase], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    run = bench.confirmed(TWO)
    with monkeypatch.context() as patch:
        lost_before("apply", patch)
        os.waitpid(horse(run.apply), 0)
    phase_id, real = run.apply.id, Workdir.remove
    signs: list[datetime] = []

    def slowly(self: Workdir) -> None:
        if not signs:
            signs.append(sign_of(phase_id))
            lab.until(lambda: sign_of(phase_id) > signs[0], "another sign", seconds=20)
        real(self)

    monkeypatch.setattr(Workdir, "remove", slowly)
    assert adopt(bench, run.apply) is RunStatus.APPLIED, run.error
    assert signs


def test_a_worker_that_wakes_up_late_takes_no_begun_phase_back_to_its_gate(
    bench: Bench, horse: Callable[[Phase], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it slept another one closed the gate, somebody typed a new code, and a third one began with that."""
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(TWO)
    lab.authenticate(run, bench.aws.code())
    with monkeypatch.context() as patch:
        lost_before("apply", patch)
        os.waitpid(horse(run.apply), 0)
    real = steps.resume

    def slowly(run: Run, phase: Phase) -> None:
        assert real(run, phase) is None
        db.session.execute(update(Phase).where(Phase.id == phase.id).values(worker="elsewhere:1"))
        db.session.commit()

    monkeypatch.setattr(steps, "resume", slowly)
    assert adopt(bench, run.apply) is RunStatus.APPLYING
    assert (run.apply.status, run.apply.worker) == (PhaseStatus.RUNNING, "elsewhere:1")
    assert run.apply.authenticated_at is not None and not run.apply.gate_note


def test_a_lease_that_is_renewed_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run, beside = bench.applying(held(gate))
    reconcile.look_around()
    assert ("services.execution.job.adopt_phase", [run.apply.id]) not in lab.queued_jobs()
    phase_id = run.apply.id
    db.session.commit()
    job.adopt_phase(phase_id)
    assert "The worker was lost" not in lab.log_of(run.apply)
    gate.touch()
    beside.result()
    assert lab.status(run) is RunStatus.APPLIED


def test_a_worker_that_comes_back_late_touches_nothing(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run, late = bench.applying(held(gate))
    taken = update(Phase).where(Phase.id == run.apply.id).values(worker="elsewhere:1")
    db.session.execute(taken)
    db.session.commit()
    late.result()
    assert lab.status(run) is RunStatus.APPLYING and control(bench).exists()
    gate.touch()
    (host,) = {phase.worker for phase in run.phases if phase.kind.value == "plan"}
    db.session.execute(update(Phase).where(Phase.id == run.apply.id).values(worker=host))
    db.session.commit()
    assert adopt(bench, run.apply) is RunStatus.APPLIED
    assert_told_once(run)


def test_a_free_environment_starts_its_pending_run_and_a_lost_job_is_queued_again(bench: Bench) -> None:
    run = bench.run(TWO)
    db.session.execute(update(Phase).where(Phase.id == run.plan.id).values(status=PhaseStatus.WAITING))
    db.session.execute(update(Run).where(Run.id == run.id).values(status=RunStatus.PENDING))
    bench.environment.active_run_id = None
    db.session.commit()
    queue.connection().flushall()
    reconcile.look_around()
    assert lab.status(run) is RunStatus.PLAN_QUEUED
    db.session.commit()
    queue.connection().flushall()
    reconcile.look_around()
    assert lab.queued_jobs() == [("services.execution.job.run_phase", [run.plan.id])]


def test_a_late_worker_takes_no_line_from_the_one_that_follows_now(bench: Bench, tmp_path: Path) -> None:
    """Its lines do not join where another's stand by now; it must neither count them as stored nor wipe them."""
    gate = tmp_path / "gate"
    run, beside = bench.applying(held(gate))
    phase_id, workdir = run.apply.id, control(bench).parent
    db.session.execute(update(Phase).where(Phase.id == phase_id).values(worker="elsewhere:1"))
    logs.say(run.apply.id, "Another one follows")
    reached = db.session.scalar(select(Phase.spool_offset).where(Phase.id == phase_id))
    db.session.commit()
    with (workdir / "spool").open("ab") as spool:
        spool.write(b"a line of terraform's\n")
    beside.result()
    assert db.session.scalar(select(Phase.spool_offset).where(Phase.id == phase_id)) == reached
    assert b"a line of terraform's" in (workdir / "spool").read_bytes()
    gate.touch()
    (host,) = {phase.worker for phase in run.phases if phase.kind.value == "plan"}
    db.session.execute(update(Phase).where(Phase.id == phase_id).values(worker=host))
    db.session.commit()
    assert adopt(bench, run.apply) is RunStatus.APPLIED
    assert lab.log_of(run.apply).count("a line of terraform's") == 1


def sign_of(phase_id: int) -> datetime:
    """As another process reads it, in a session of its own."""
    with Session(db.engine) as session:
        found = session.scalar(select(Phase.heartbeat_at).where(Phase.id == phase_id))
    assert found is not None
    return found


def test_a_long_preparation_keeps_its_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker that took it over would use the same working directory."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    run = bench.run(TWO)
    phase_id, real = run.plan.id, archive_child.Reader.extract
    signs: list[datetime] = []

    def slowly(*arguments: Any) -> archives.ArchiveInfo:
        for _ in range(2):
            before = sign_of(phase_id)
            lab.until(lambda before=before: sign_of(phase_id) > before, "another sign", seconds=20)  # type: ignore[misc]
            signs.append(before)
        return real(*arguments)

    monkeypatch.setattr(archive_child.Reader, "extract", slowly)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
    assert len(signs) == 2
