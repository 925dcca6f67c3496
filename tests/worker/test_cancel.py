"""Cancel: one SIGINT to terraform, its state kept, the next run started."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from extensions import db
from models import PhaseStatus, Run, StateVersion
from policy import plan_summary
from policy.lifecycle import Event, RunStatus
from services import clock, runs
from services.errors import Conflict
from services.execution import child, ending, follow, job, stopping
from services.execution.work import Work
from tests import factories
from tests.support import lab
from tests.support.silent import reads, slow_remote_state
from tests.worker.configurations import ONE, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids that a SIGINT was sent to."""
    sent: list[int] = []
    real = child.Child.interrupt

    def interrupt(self: child.Child) -> bool:
        sent.append(self.terraform_pid())
        return real(self)

    monkeypatch.setattr(child.Child, "interrupt", interrupt)
    return sent


def test_cancel_while_planning(bench: Bench, interrupts: list[int]) -> None:
    with slow_remote_state() as (address, asked, answer):
        run = bench.run(reads(address) + ONE)
        waiting = bench.run(ONE)
        planning = bench.start(run.plan)
        lab.until(asked.is_set, "terraform reads the slow state")
        assert lab.status(run) is RunStatus.PLANNING
        runs.cancel(factories.member("bob"), run)
        with pytest.raises(Conflict, match=r"A cancel is under way already"):
            runs.cancel(factories.member(), run)
        lab.until(lambda: interrupts, "the interrupt is sent")
        answer.set()
        planning.result()
    assert lab.status(run) is RunStatus.CANCELED
    assert len(interrupts) == 1
    log = lab.log_of(run.plan)
    assert log.endswith("Canceled by bob; nothing was changed\n")
    assert "Two interrupts" not in log
    assert (run.plan.status, run.plan_digest) == (PhaseStatus.CANCELED, None)
    assert run.ended_by is not None and run.ended_by.name == "bob"
    assert run.error == ""
    assert lab.status(waiting) is RunStatus.PLAN_QUEUED


def test_a_canceled_apply_says_where_a_state_is_that_could_not_be_stored(bench: Bench, tmp_path: Path) -> None:
    run, applying = bench.applying(held(tmp_path / "gate"))
    (name,) = bench.workdirs()
    left = bench.home / "work" / name / "config" / "errored.tfstate"
    left.write_text('{"version": 4, "serial"')  # as a full disk leaves it
    runs.cancel(factories.member("bob"), run)
    applying.result()
    assert lab.status(run) is RunStatus.CANCELED
    kept = f"Terraform’s state could not be stored. It stays on the worker’s machine, in {left.parent.parent}."
    assert (run.error_code, run.error) == ("state_unkept", f"Canceled by bob. {kept}")
    assert run.error in lab.log_of(run.apply)
    shutil.rmtree(left.parent.parent)


def test_cancel_while_applying_keeps_what_is_finished(bench: Bench, tmp_path: Path, interrupts: list[int]) -> None:
    gate = tmp_path / "gate"
    version = bench.upload(held(gate))
    run = bench.planned(version)
    waiting = bench.run(version)
    runs.confirm(factories.member(), run)
    applying = bench.start(run.apply)
    lab.until(lambda: "second: Provisioning with" in lab.log_of(run.apply), "the second resource is in the making")
    runs.cancel(factories.member(), run)
    lab.until(lambda: "Gracefully shutting down" in lab.log_of(run.apply), "terraform takes the interrupt")
    applying.result()
    gate.touch()
    assert lab.status(run) is RunStatus.CANCELED
    assert len(interrupts) == 1
    assert "Two interrupts" not in lab.log_of(run.apply)
    assert (run.apply.status, run.apply.exit_code, run.error) == (PhaseStatus.CANCELED, 1, "")
    [state] = db.session.query(StateVersion)
    assert (state.run_id, state.resources) == (run.id, 2), "the finished resource, and the tainted one"
    # The next run goes on from there.
    assert lab.status(waiting) is RunStatus.PLAN_QUEUED
    assert bench.work(waiting.plan) is RunStatus.AWAITING_CONFIRMATION
    assert "terraform_data.second is tainted" in lab.log_of(waiting.plan)
    assert waiting.counts is not None and (waiting.counts["add"], waiting.counts["destroy"]) == (1, 1)


def test_a_stop_that_could_not_be_sent_is_sent_by_the_next_look(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, real = list[child.Child](), child.Child.interrupt

    def interrupt(of: child.Child) -> bool:
        sent.append(of)
        if len(sent) == 1:
            raise OSError(errno.ENFILE, "Too many open files in system")
        return real(of)

    monkeypatch.setattr(child.Child, "interrupt", interrupt)
    run, applying = bench.applying(held(tmp_path / "gate"))
    runs.cancel(factories.member("bob"), run)
    applying.result()
    assert (lab.status(run), len(sent)) == (RunStatus.CANCELED, 2)
    assert lab.log_of(run.apply).count("Cancel requested by bob: terraform is asked to stop") == 1


def test_a_stop_that_another_worker_passed_on_is_not_passed_on_again(
    bench: Bench, tmp_path: Path, interrupts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that follow one terraform look at the same moment: the mark decides, for a second SIGINT loses state."""
    gate, looked, real = tmp_path / "gate", threading.Semaphore(0), stopping.Stopper.look

    def look(stopper: stopping.Stopper) -> None:
        real(stopper)
        looked.release()

    monkeypatch.setattr(stopping.Stopper, "look", look)
    run, applying = bench.applying(held(gate))
    (name,) = bench.workdirs()
    (bench.home / "work" / name / "control" / "apply.interrupted").touch()
    runs.cancel(factories.member("bob"), run)
    while looked.acquire(blocking=False):
        pass
    assert looked.acquire(timeout=30) and looked.acquire(timeout=30), "it was looked at since"
    gate.touch()
    applying.result()
    assert (lab.status(run), interrupts) == (RunStatus.APPLIED, [])
    assert "terraform is asked to stop" not in lab.log_of(run.apply)


def test_a_cancel_at_the_last_moment_of_the_plan_does_not_wait_for_the_apply(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.run(ONE)
    run_id = run.id
    counted = plan_summary.counts_from_log

    def cancel_now(text: str) -> plan_summary.Counts | None:
        runs.cancel(factories.member(), db.session.get_one(Run, run_id))
        return counted(text)

    monkeypatch.setattr(plan_summary, "counts_from_log", cancel_now)
    assert bench.work(run.plan) is RunStatus.CANCELED
    assert run.plan_digest is None


def test_a_cancel_that_comes_after_the_apply_leaves_it_applied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.confirmed(ONE)
    real = follow.run_step

    def finish_then_cancel(work: Work, arguments: list[str]) -> follow.Outcome:
        outcome = real(work, arguments)
        if arguments[0] == "apply":
            runs.cancel(factories.member("bob"), work.run)
        return outcome

    monkeypatch.setattr(job, "run_step", finish_then_cancel)
    assert bench.work(run.apply) is RunStatus.APPLIED


def test_a_queued_phase_that_was_canceled_is_not_run(bench: Bench) -> None:
    run = bench.run(ONE)
    runs.cancel(factories.member(), run)
    assert bench.work(run.plan) is RunStatus.CANCELED
    assert run.plan.status is PhaseStatus.CANCELED
    assert lab.log_of(run.plan) == ""


def test_a_cancel_that_cannot_be_looked_at_ends_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next run would start, and the directory go, under a terraform that still applies."""
    gate = tmp_path / "gate"
    run = bench.planned(held(gate))
    waiting = bench.run(ONE)
    runs.confirm(factories.member(), run)
    failed = threading.Event()

    def fail(*_: Any) -> None:
        failed.set()
        raise RuntimeError("a secret may stand here")

    monkeypatch.setattr(stopping.Stopper, "look", fail)
    applying = bench.start(run.apply)
    lab.until(failed.is_set, "the fault")
    assert lab.status(run) is RunStatus.APPLYING
    assert lab.status(waiting) is RunStatus.PENDING
    gate.touch()
    applying.result()
    assert (lab.status(run), run.error) == (RunStatus.APPLIED, "")
    assert "a secret" not in lab.log_of(run.apply)
    [state] = db.session.query(StateVersion)
    assert state.resources == 2
    assert lab.status(waiting) is RunStatus.PLAN_QUEUED


def test_a_cancel_that_comes_while_the_plan_is_written_down_counts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left standing, it would stop the apply that somebody confirms later."""
    run = bench.run(ONE)
    finish = ending.finish

    def after_a_cancel(work: Work, event: Event, *rest: Any) -> None:
        if event is Event.FINISH_PLAN:
            asked = {"cancel_requested_at": clock.now(), "cancel_requested_by_id": factories.member().user_id}
            db.session.execute(update(Run).where(Run.id == work.run_id).values(**asked))
            db.session.commit()
        finish(work, event, *rest)

    monkeypatch.setattr(ending, "finish", after_a_cancel)
    assert bench.work(run.plan) is RunStatus.CANCELED
    assert bench.environment.active_run_id is None and run.plan_digest is None
