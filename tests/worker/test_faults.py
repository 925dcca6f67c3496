"""A fault of Lockstep's own while terraform runs: it is tried again, and terraform is neither left alone nor ended."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from extensions import db
from models import Environment, Phase
from policy.lifecycle import RunStatus
from services import runs, states
from services.execution import child, host, job, keeping, steady
from services.execution.spool import Piece, SpoolReader
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE, held
from tests.worker.conftest import Bench
from tests.worker.lost import adopt, lapse

pytestmark = pytest.mark.terraform


class Fault:
    """Reading the output goes wrong while it is ``on``, or ``times`` more times, for the first who meets it."""

    def __init__(self, real: Callable[..., list[Piece]]) -> None:
        self.on, self.times, self.seen, self._real = False, 0, 0, real
        self._who: threading.Thread | None = None

    def __call__(self, reader: SpoolReader, final: bool = False) -> list[Piece]:
        if (self.on or self.times) and self._who in (None, threading.current_thread()):
            self._who = threading.current_thread()
            self.times, self.seen = max(0, self.times - 1), self.seen + 1
            raise RuntimeError("hunter2")
        return self._real(reader, final)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    made = Fault(SpoolReader.read_new)
    monkeypatch.setattr(SpoolReader, "read_new", lambda *given, **named: made(*given, **named))
    return made


def test_a_fault_that_passes_costs_no_line(
    bench: Bench, fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = tmp_path / "gate"
    run, applying = bench.applying(held(gate))
    fault.times = 2
    lab.until(lambda: not fault.times, "it went wrong twice")
    gate.touch()
    applying.result()
    assert (lab.status(run), run.error) == (RunStatus.APPLIED, "")
    assert re.findall(r"(first|second): Creation complete", lab.log_of(run.apply)) == ["first", "second"]
    assert "terraform is not followed for now: RuntimeError" in caplog.text and "hunter2" not in caplog.text


def test_a_connection_that_is_lost_on_the_way_back_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the fault that was to be passed over would become another one."""
    environment_id = bench.environment.id
    with monkeypatch.context() as patch:
        patch.setattr(db.session, "rollback", lost)
        before = db.session.connection()
        steady.start_over()
    assert before.closed and db.session.get(Environment, environment_id) is not None


def lost() -> None:
    raise OperationalError("ROLLBACK", {}, Exception("the connection is closed"))


def test_a_cancel_reaches_terraform_though_its_output_cannot_be_read(
    bench: Bench, fault: Fault, tmp_path: Path
) -> None:
    run, applying = bench.applying(held(tmp_path / "gate"))
    (name,) = bench.workdirs()
    running = child.attach(bench.home / "work" / name / "control", "apply")
    fault.on = True
    lab.until(lambda: fault.seen, "it goes wrong")
    beaten, seen = run.apply.heartbeat_at, fault.seen
    lab.until(lambda: fault.seen > seen + 1, "it goes wrong again")
    db.session.refresh(run.apply)
    assert run.apply.heartbeat_at == beaten, "the page says that nobody follows, and another worker may try"
    runs.cancel(factories.member("bob"), run)
    lab.until(lambda: not running.running(), "terraform has stopped", seconds=30)
    applying.result()
    assert "Cancel requested by bob: terraform is asked to stop\n" in lab.log_of(run.apply)
    assert lab.status(run) is RunStatus.ERRORED and run.error.startswith("A fault of Lockstep")
    kept = states.latest(run.environment_id)
    assert kept is not None and (kept.run_id, kept.resources) == (run.id, 2) and bench.workdirs() == []


def test_a_worker_that_lost_the_phase_at_the_end_stores_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody gave up on it, say, and the next run has begun on the state that there was."""
    run = bench.confirmed(ONE)
    phase_id, real, stored = run.apply.id, SpoolReader.read_new, list[object]()

    def read_new(reader: SpoolReader, final: bool = False) -> list[Piece]:
        if not final:
            return real(reader, final)
        patch.setattr(SpoolReader, "read_new", real)
        patch.setattr(keeping, "keep_last_state", stored.append)
        db.session.execute(update(Phase).where(Phase.id == phase_id).values(worker="another:1"))
        db.session.commit()
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(SpoolReader, "read_new", read_new)
        assert bench.work(run.apply) is RunStatus.APPLYING
        assert stored == [] and len(bench.workdirs()) == 1
    assert adopt(bench, run.apply) is RunStatus.APPLIED


def test_two_workers_that_follow_one_terraform_ask_it_to_stop_once(
    bench: Bench, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's fault let its lease lapse, and another one took over: a second SIGINT would lose state."""
    run, first = bench.applying(held(tmp_path / "gate"))
    phase_id, sent, real = run.apply.id, list[child.Child](), child.Child.interrupt

    def interrupt(of: child.Child) -> bool:
        sent.append(of)
        return real(of)

    monkeypatch.setattr(child.Child, "interrupt", interrupt)
    fault.on = True
    lab.until(lambda: fault.seen, "it goes wrong")
    monkeypatch.setattr(host, "worker", lambda: "another:1")
    lapse(run.apply)
    second = lab.Beside(bench.app, lambda: job.adopt_phase(phase_id))
    lab.until(lambda: "another one goes on from here" in lab.log_of(run.apply), "it is taken over")
    first.result()
    runs.cancel(factories.member("bob"), run)
    second.result()
    assert lab.status(run) is RunStatus.CANCELED and len(sent) == 1
    assert "Two interrupts" not in lab.log_of(run.apply)
