"""Time limits and force: a terraform that does not end by itself is asked, and at last made, to end."""

from __future__ import annotations

import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from extensions import db
from models import AuditEvent, Run, StateVersion
from policy import mfa
from policy.lifecycle import CancelReason, RunStatus
from policy.mfa import MfaLevel, PhaseKind
from services import clock, force, runs
from services.errors import Conflict, Forbidden
from services.execution import stopping, terraform
from tests import factories
from tests.support import lab
from tests.support.processes import outside
from tests.support.silent import reads, slow_remote_state
from tests.worker.configurations import ONE, hcl, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def test_a_plan_that_hangs_is_ended_by_its_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider whose endpoint is silent would wait for ever."""
    bench.settings(monkeypatch, plan_limit=timedelta(seconds=2))
    with slow_remote_state() as (address, asked, answer):
        run = bench.run(reads(address) + ONE)
        waiting = bench.run(ONE)
        planning = bench.start(run.plan)
        lab.until(asked.is_set, "terraform reads the slow state")
        lab.until(lambda: "asked to stop" in lab.log_of(run.plan), "the limit is reached")
        answer.set()
        planning.result()
    assert lab.status(run) is RunStatus.CANCELED
    assert run.error_code == "time_limit" and "The plan took longer than" in run.error
    assert "Nothing was changed." in run.error and "in the state" not in run.error
    assert run.ended_by is None and run.error in lab.log_of(run.plan)
    assert db.session.query(AuditEvent).filter_by(action="run.limit").one()
    assert lab.status(waiting) is RunStatus.PLAN_QUEUED


def test_an_apply_never_goes_beyond_its_session(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.planned_or_waiting(held(tmp_path / "gate"))
    lab.authenticate(run, bench.aws.code())
    # The session is the shortest that AWS gives, 15 min, and the margin all of it but two seconds.
    db.session.refresh(run.apply)
    assert run.apply.session_expires_at is not None
    left = run.apply.session_expires_at - clock.now()
    monkeypatch.setattr(mfa, "SESSION_MARGIN", left - timedelta(seconds=3))
    assert bench.work(run.apply) is RunStatus.CANCELED
    assert run.error_code == "session_over"
    assert run.error == (
        "The MFA session was about to end, so terraform was asked to stop. What was finished is in the state; look in "
        "AWS for what was in flight (see the log). Queue a new run."
    )
    [state] = db.session.query(StateVersion)
    assert state.resources >= 1


def test_an_apply_that_a_limit_ends_says_where_a_state_is_that_could_not_be_stored(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, applying = bench.applying(held(tmp_path / "gate"))
    (name,) = bench.workdirs()
    where = bench.home / "work" / name
    (where / "config" / "errored.tfstate").write_text('{"version": 4, "serial"')  # as a full disk leaves it
    monkeypatch.setattr(stopping.Stopper, "_over", lambda _: CancelReason.TIME_LIMIT)
    applying.result()
    assert lab.status(run) is RunStatus.CANCELED
    limit = stopping.minutes(stopping.limit_of(PhaseKind.APPLY))
    assert (run.error_code, run.error) == (
        "state_unkept",
        f"The apply took longer than {limit}, so terraform was asked to stop. "
        f"Terraform’s state could not be stored. It stays on the worker’s machine, in {where}.",
    )
    shutil.rmtree(where)


def test_a_force_needs_a_cancel_a_cool_off_and_an_owner(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.run(ONE)
    with pytest.raises(Conflict, match="Nothing was changed"):
        force.force(factories.member(), run)
    values = {"status": RunStatus.PLANNING, "cancel_requested_at": clock.now()}
    db.session.execute(update(Run).where(Run.id == run.id).values(**values))
    db.session.commit()
    db.session.refresh(run)
    with pytest.raises(Forbidden):
        force.force(factories.member("bob"), run)
    with pytest.raises(Conflict, match="give it time"):
        force.force(factories.member(), run)
    bench.settings(monkeypatch, force_after=timedelta(0))
    force.force(factories.member(), run)
    with pytest.raises(Conflict, match="already"):
        force.force(factories.member(), run)


def test_a_second_interrupt_ends_a_plan_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.settings(monkeypatch, force_after=timedelta(0))
    with slow_remote_state() as (address, asked, _):
        run = bench.run(reads(address) + ONE)
        planning = bench.start(run.plan)
        lab.until(asked.is_set, "terraform reads the slow state")
        runs.cancel(factories.member("bob"), run)
        lab.until(lambda: "asked to stop" in lab.log_of(run.plan), "the first interrupt")
        force.force(factories.member(), run)
        planning.result()
    assert lab.status(run) is RunStatus.CANCELED
    log = lab.log_of(run.plan)
    assert "Forced by alice: terraform is told to leave at once" in log and "Two interrupts received" in log
    assert "bad" not in lab.tones_of(run.plan)


def test_a_terraform_that_heeds_nothing_is_killed_with_all_it_started(
    bench: Bench, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings(monkeypatch, force_after=timedelta(0))
    monkeypatch.setattr(stopping, "KILL_AFTER", 1.0)
    run, applying, pid = deaf(bench, notes)
    runs.cancel(factories.member("bob"), run)
    lab.until(lambda: "asked to stop" in lab.log_of(run.apply), "the first interrupt")
    force.force(factories.member(), run)
    applying.result()
    assert lab.status(run) is RunStatus.CANCELED
    assert run.apply.exit_code == -signal.SIGKILL
    assert lab.log_of(run.apply).rstrip().endswith("Canceled by bob, by force: the state may lack what was in flight")
    [state] = db.session.query(StateVersion)
    assert state.resources == 1, "what was saved before is kept"
    assert not alive(pid), "nothing that terraform started is left"


def deaf(bench: Bench, notes: Path) -> tuple[Run, lab.Beside, int]:
    """An apply whose terraform hangs: the run, the worker beside the test, the pid of its provisioner."""
    note = notes / "pid"
    run = bench.planned(
        'resource "terraform_data" "first" {}\nresource "terraform_data" "second" {\n'
        "  depends_on = [terraform_data.first]\n"
        f'  provisioner "local-exec" {{ command = {hcl(f"echo $$ > {note}; exec sleep 600")} }}\n}}\n'
    )
    runs.confirm(factories.member(), run)
    applying = bench.start(run.apply)
    lab.until(lambda: note.exists() and note.read_text().strip(), "the provisioner runs")
    child = applied(bench)
    os.kill(child.terraform_pid(), signal.SIGSTOP)
    return run, applying, outside(child, int(note.read_text()))


def applied(bench: Bench) -> terraform.Child:
    (workdir,) = bench.workdirs()
    return terraform.attach(bench.home / "work" / workdir / "control", "apply")


def test_what_a_canceled_terraform_leaves_running_is_ended(bench: Bench, notes: Path) -> None:
    """Terraform ends a provisioner's shell, not what that started; and it has the run's credentials."""
    note = notes / "pid"
    command = hcl(f"sh -c 'trap \"\" INT TERM; echo $$ > {note}; while :; do sleep 0.2; done' & wait")
    run = bench.planned(
        f'resource "terraform_data" "one" {{ \nprovisioner "local-exec" {{ command = {command} }}\n}}\n'
    )
    runs.confirm(factories.member(), run)
    applying = bench.start(run.apply)
    number = int(lab.until(lambda: note.exists() and note.read_text().strip(), "the provisioner runs"))
    pid = outside(applied(bench), number)
    assert alive(pid)
    runs.cancel(factories.member(), run)
    applying.result()
    assert lab.status(run) is RunStatus.CANCELED
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False
