"""What is left when terraform or its machine is gone: told on the run, its state kept, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from extensions import db
from models import AuditEvent, Environment, Phase, PhaseStatus, Run, StateVersion
from policy.lifecycle import LEASE, RunStatus
from policy.mfa import MfaLevel
from services import clock, doctor, force, runs
from services.compare_and_set import won
from services.errors import Conflict, Forbidden
from services.execution import ending, host, job, leftovers, reconcile, terraform
from services.execution.workdir import Workdir
from services.storage.vault import Vault, generate_key
from tests import factories
from tests.support import lab
from tests.support.silent import reads, slow_remote_state
from tests.worker.configurations import ONE, TWO, held
from tests.worker.conftest import Bench
from tests.worker.lost import adopt, horse, kill

__all__ = ["horse"]

pytestmark = pytest.mark.terraform

Horse = Callable[[Phase], int]


def workdir(bench: Bench) -> Path:
    (name,) = bench.workdirs()
    return bench.home / "work" / name


def stop_terraform(bench: Bench, step: str) -> None:
    child = terraform.attach(workdir(bench) / "control", step)
    child.wrapper.signal(signal.SIGKILL)
    child.kill_session()
    lab.until(lambda: not child.running(), "terraform is gone")


def test_a_plan_that_vanished_applied_nothing(bench: Bench, horse: Horse) -> None:
    with slow_remote_state() as (address, asked, _):
        run = bench.run(reads(address) + ONE)
        pid = horse(run.plan)
        lab.until(asked.is_set, "terraform plans")
        kill(pid)
        stop_terraform(bench, "plan")
        assert adopt(bench, run.plan) is RunStatus.INTERRUPTED
    assert "Nothing was applied." in run.error and run.plan_digest is None
    assert "error" in lab.tones_of(run.plan) and "bad" not in lab.tones_of(run.plan)
    assert run.interruption is not None and run.interruption["begun"] is False


@pytest.mark.parametrize("gated", [False, True])
def test_a_database_from_before_the_end_starts_no_apply_a_second_time(
    bench: Bench, horse: Horse, tmp_path: Path, gated: bool
) -> None:
    """A copy made while the apply ran, put back later: its working directory went when it ended."""
    if gated:
        lab.aws_keys(bench.aws)
        bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
        db.session.commit()
    run = bench.planned_or_waiting(held(tmp_path / "gate"))
    if gated:
        lab.authenticate(run, bench.aws.code())
    else:
        runs.confirm(factories.member(), run)
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    stop_terraform(bench, "apply")
    Workdir(workdir(bench)).remove()
    told = lab.log_of(run.apply)
    assert adopt(bench, run.apply) is RunStatus.INTERRUPTED
    assert run.error.startswith("The working directory of the apply is gone") and run.error.endswith(
        "Queue a new plan."
    )
    assert lab.log_of(run.apply) == f"{told}{run.error}\n", "nothing was started"
    known = run.interruption
    assert known is not None and known["no_directory"] and known["begun"]
    assert datetime.fromisoformat(known["last_sign"]) < clock.now() - LEASE, "the former worker’s"
    assert (known["done"], known["unsure"]) == (1, ["terraform_data.second"])
    assert bench.environment.active_run_id is None and bench.workdirs() == []


def test_what_a_failed_ending_leaves_is_found_by_the_next_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its directory the phase would look as if it had never begun."""
    run = bench.confirmed(ONE)

    def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(ending, "_end", fail)
        phase_id = run.apply.id
        db.session.commit()
        with pytest.raises(RuntimeError):
            job.run_phase(phase_id)
    assert lab.status(run) is RunStatus.APPLYING
    assert adopt(bench, run.apply) is RunStatus.APPLIED
    assert lab.log_of(run.apply).count("Apply complete!") == 1


def test_after_a_restart_of_the_machine_the_run_says_so(bench: Bench, horse: Horse, tmp_path: Path) -> None:
    run = bench.confirmed(held(tmp_path / "gate"))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    stop_terraform(bench, "apply")
    for record in (workdir(bench) / "control").glob("*.pid"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"boot_id": "before-the-restart"}))
    assert adopt(bench, run.apply) is RunStatus.INTERRUPTED
    assert run.interruption is not None and run.interruption["rebooted"]
    assert run.error.startswith("The worker’s machine was restarted")


def test_an_errored_state_is_picked_up(bench: Bench, horse: Horse, tmp_path: Path) -> None:
    """What terraform could not write to its place is newer than what is there."""
    run = bench.confirmed(held(tmp_path / "gate"))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    stop_terraform(bench, "apply")
    state = json.loads((workdir(bench) / "state" / "terraform.tfstate").read_text())
    state["serial"] += 1
    (workdir(bench) / "config" / "errored.tfstate").write_text(json.dumps(state))
    assert adopt(bench, run.apply) is RunStatus.INTERRUPTED
    assert run.interruption is not None and run.interruption["errored_state"]
    [kept] = db.session.query(StateVersion)
    assert (kept.serial, run.interruption["serial"]) == (state["serial"], state["serial"])


@pytest.mark.parametrize("sealed", [True, False])
def test_terraform_is_followed_to_its_end_though_its_variables_cannot_be_read(
    bench: Bench, horse: Horse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    """What has to be hidden was left beside the child. Where that cannot be read either, nothing is shown."""
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    kill(pid)
    if not sealed:
        (workdir(bench) / "control" / "hidden").unlink()
    gate.touch()
    with monkeypatch.context() as patch:
        patch.setattr("services.variables.resolve", _unreadable)
        assert adopt(bench, run.apply) is RunStatus.APPLIED, run.error
    assert ("Apply complete!" in lab.log_of(run.apply)) is sealed
    assert [version.resources for version in db.session.query(StateVersion)] == [2]


def _unreadable(*_: object) -> None:
    Vault.from_text(generate_key()).decrypt(b"something else", "place")


# -- giving up on a worker ---------------------------------------------------------------------------------------------


def elsewhere(run: Run) -> None:
    """The phase is one of another machine, silent for long."""
    silent = clock.now() - LEASE - timedelta(minutes=5)
    values = {"worker": "gone-abc123:7", "heartbeat_at": silent}
    db.session.execute(update(Phase).where(Phase.id == run.apply.id).values(**values))
    db.session.commit()


def test_a_machine_that_is_gone_is_given_up_by_an_owner(bench: Bench, horse: Horse, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    waiting = bench.run(ONE)
    pid = horse(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the apply runs")
    with pytest.raises(Conflict, match="gave a sign lately"):
        force.give_up(factories.member(), run)
    elsewhere(run)
    os.waitpid(pid, 0)  # whoever followed sees that the phase is not theirs; terraform goes on
    with pytest.raises(Forbidden):
        force.give_up(factories.member("bob"), run)
    force.give_up(factories.member(), run)
    assert lab.status(run) is RunStatus.INTERRUPTED
    assert run.error.startswith("alice gave up on the worker") and run.error in lab.log_of(run.apply)
    assert lab.status(waiting) is RunStatus.PLAN_QUEUED
    assert db.session.query(AuditEvent).filter_by(action="run.give_up").one()
    # The machine comes back: what it has belongs to nobody any more and must not come on top.
    gate.touch()
    lab.until((workdir(bench) / "control" / "apply.exit").exists, "terraform ends by itself")
    assert bench.environment.active_run_id == waiting.id
    left = leftover(bench, run)
    reconcile.look_around()
    assert left.exists(), "its state is stored nowhere else, and another run has the environment"
    runs.cancel(factories.member(), waiting)
    reconcile.look_around()
    assert not left.exists(), "nothing came after it, so its state is the newest"
    newest = db.session.query(StateVersion).order_by(StateVersion.number.desc()).first()
    assert newest is not None and newest.resources == 2


def leftover(bench: Bench, run: Run) -> Path:
    """The working directory, long untouched."""
    path = workdir(bench)
    long_ago = clock.now() - timedelta(minutes=5)
    os.utime(path, (long_ago.timestamp(), long_ago.timestamp()))
    db.session.execute(update(Phase).where(Phase.run_id == run.id).values(finished_at=long_ago))
    db.session.commit()
    return path


# -- what a killed worker leaves behind --------------------------------------------------------------------------------


def test_a_directory_that_was_not_removed_is_removed_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.confirmed(TWO)
    with monkeypatch.context() as patch:
        patch.setattr(ending, "clear", lambda work: None)
        assert bench.work(run.apply) is RunStatus.APPLIED
    db.session.commit()
    reconcile.look_around()
    assert bench.workdirs(), "it is removed by its own worker, who may be about to"
    leftover(bench, run)
    reconcile.look_around()
    assert bench.workdirs() == []


def test_a_directory_with_a_state_that_was_overtaken_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.confirmed(TWO)
    with monkeypatch.context() as patch:
        patch.setattr(ending, "clear", lambda work: None)
        assert bench.work(run.apply) is RunStatus.APPLIED
    path = leftover(bench, run)
    place = path / "state" / "terraform.tfstate"
    changed = json.loads(place.read_text())
    changed["outputs"] = {"unknown": {"value": 1, "type": "number"}}
    place.write_text(json.dumps(changed))
    environment = db.session.get_one(Environment, run.environment_id)
    environment.active_run_id = 12345
    db.session.commit()
    assert leftovers.only_copies() == ([path], [])
    told = [finding for finding in doctor.examine() if finding.subject == "States"]
    assert [finding.status for finding in told] == [doctor.Status.WARNING] and str(path) in told[0].detail
    reconcile.look_around()
    assert path.exists()
    place.unlink()
    reconcile.look_around()
    assert not path.exists()


def test_an_idle_worker_packs_finished_logs(bench: Bench) -> None:
    run = bench.applied(ONE)
    before = lab.log_of(run.apply)
    packed = update(Phase).where(Phase.id == run.apply.id, Phase.log_packed_at.is_not(None)).values(exit_code=0)
    db.session.commit()
    for busy, is_packed in ((True, False), (False, True)):
        reconcile.look_around(busy=busy)
        assert won(packed) is is_packed
        db.session.commit()
    assert lab.log_of(run.apply) == before


def test_a_worker_elsewhere_starts_the_clock_of_a_phase_that_was_let_go(bench: Bench) -> None:
    run = bench.confirmed(TWO)
    values = {"worker": "gone-abc123:7", "heartbeat_at": None, "status": PhaseStatus.RUNNING, "queued_at": clock.now()}
    db.session.execute(update(Phase).where(Phase.id == run.apply.id).values(**values))
    db.session.execute(update(Run).where(Run.id == run.id).values(status=RunStatus.APPLYING))
    db.session.commit()
    reconcile.look_around()
    db.session.refresh(run.apply)
    assert run.apply.heartbeat_at is not None and clock.now() - run.apply.heartbeat_at >= LEASE
    assert ("services.execution.job.adopt_phase", [run.apply.id]) not in lab.queued_jobs()


def test_only_one_worker_of_a_machine_looks_around(bench: Bench) -> None:
    phase_id = bench.run(ONE).plan.id
    db.session.commit()
    client = bench.app.extensions["lockstep-redis"]
    client.flushall()
    client.set(f"lockstep:looking:{host.identity()}", "another", ex=30)
    reconcile.look_around()
    assert lab.queued_jobs() == []
    client.delete(f"lockstep:looking:{host.identity()}")
    reconcile.look_around()
    assert [args for _, args in lab.queued_jobs()] == [[phase_id]]
