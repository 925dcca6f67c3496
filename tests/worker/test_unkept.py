"""A state that could not be stored: nothing works on the older one by itself until it is saved, or somebody says so."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from extensions import db
from models import AuditEvent, Phase, Run
from policy.lifecycle import RunStatus
from services import clock, environments, holds, runs, state_locks, state_writes, states
from services import unkept as service
from services.errors import Conflict
from services.execution import ending, interruption, job, keeping, reconcile
from services.execution.work import Work
from services.holds import HolderKind
from tests import factories
from tests.support import lab
from tests.worker.configurations import TWO, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

#: The second resource cannot be made.
FAILS = TWO.replace('"world"', '"world"\n  provisioner "local-exec" {\n    command = "exit 1"\n  }')

WHY = "Lockstep: run #1 left its newest state on the worker’s machine"
_LOCKS = (HolderKind.STATE, HolderKind.PERSON)


class Refusing:
    """A store of states that takes none for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on, self.asked, self._real = False, 0, states.store
        monkeypatch.setattr(states, "store", self)

    def __call__(self, *args: Any, **more: Any) -> Any:
        if self.on:
            self.asked += 1
            raise PermissionError
        return self._real(*args, **more)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    return Refusing(monkeypatch)


@pytest.fixture(autouse=True)
def nothing_left(bench: Bench) -> Iterator[None]:
    yield
    for folder in bench.workdirs():
        shutil.rmtree(bench.home / "work" / folder)


def unkept(bench: Bench, refusing: Refusing, configuration: str = FAILS) -> Run:
    """A run whose apply was begun and failed, and whose state no place took."""
    run = bench.confirmed(configuration)
    refusing.on = True
    assert bench.work(run.apply) is RunStatus.ERRORED
    db.session.refresh(run)
    assert run.error_code == "state_unkept"
    db.session.rollback()
    return run


def locks() -> list[str]:
    """What locks the environment."""
    environment = factories.environment()
    db.session.refresh(environment)
    found = [holder.sentence for holder in holds.holders(environment) if holder.kind in _LOCKS]
    db.session.rollback()  # or else whoever looks around would wait for this
    return found


def pass_time(run: Run) -> None:
    """So long that whoever looks around looks at what the apply left."""
    before = {"finished_at": clock.now() - timedelta(minutes=5)}
    db.session.execute(update(Phase).where(Phase.run_id == run.id).values(**before))
    db.session.commit()


def events(action: str) -> list[tuple[str, dict[str, Any]]]:
    found = db.session.scalars(select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.id))
    return [(event.actor_name, event.details) for event in found]


def test_terraform_is_followed_and_canceled_though_no_place_takes_its_state(
    bench: Bench, refusing: Refusing, tmp_path: Path
) -> None:
    """What is refused while the apply goes on is no reason to leave it alone: its end tries again."""
    refusing.on = True
    run, applying = bench.applying(held(tmp_path / "gate"))
    lab.until(lambda: refusing.asked, "the state of the first resource is refused")
    refusing.on = False
    runs.cancel(factories.member("bob"), run)
    lab.until(lambda: "Gracefully shutting down" in lab.log_of(run.apply), "terraform takes the interrupt")
    applying.result()
    assert (lab.status(run), run.error, locks()) == (RunStatus.CANCELED, "", [])
    assert states.latest(run.environment_id) is not None and bench.workdirs() == []


def test_an_apply_whose_state_was_overtaken_is_followed_and_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A database put back from a copy may know newer states than the apply began with."""
    gate = tmp_path / "gate"
    run, applying = bench.applying(held(gate))

    def overtaken(*_: object, **__: object) -> None:
        raise states.StaleState("The state has serial 3, older than the current 9.")

    monkeypatch.setattr(states, "store", overtaken)
    monkeypatch.setattr(keeping, "stored_since", lambda *_: None)
    gate.touch()
    applying.result()
    assert lab.status(run) is RunStatus.ERRORED and run.error_code == "state_unkept"
    assert "Apply complete!" in lab.log_of(run.apply)
    assert run.error.startswith(
        "The apply has ended, and its state was refused: The state has serial 3, older than the current 9. Terraform’s"
    )
    assert run.unkept is not None and run.unkept["code"] == "state_overtaken"
    assert run.apply.exit_code == 0
    db.session.rollback()
    assert locks() == [WHY]


def test_the_next_run_waits_until_somebody_lets_it_go_on(bench: Bench, refusing: Refusing) -> None:
    run = unkept(bench, refusing)
    assert locks() == [WHY]
    [(who, told)] = events("environment.lock")
    assert who == "Lockstep" and run.error.endswith(told["reason"])
    later = bench.run(FAILS, by="bob")
    assert lab.status(later) is RunStatus.PENDING
    reconcile.look_around()
    assert lab.status(later) is RunStatus.PENDING
    with pytest.raises(Conflict, match="gone already"):
        service.release(factories.member("bob"), bench.environment, 2)
    service.release(factories.member("bob"), bench.environment, 1)
    assert events("environment.unlock") == [("bob", {})]
    assert lab.status(later) is RunStatus.PLAN_QUEUED
    pass_time(run)
    reconcile.look_around()
    assert locks() == [], "whoever unlocked knew"
    with pytest.raises(Conflict, match="gone already"):
        service.release(factories.member("bob"), bench.environment, 1)


def test_a_run_that_was_pending_waits_too(bench: Bench, refusing: Refusing) -> None:
    """It began before with the old state: at the end of the run ahead, by itself."""
    run = bench.confirmed(FAILS)
    later = bench.run(FAILS, by="bob")
    refusing.on = True
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert lab.status(later) is RunStatus.PENDING


def test_lockstep_unlocks_when_it_has_stored_the_state(bench: Bench, refusing: Refusing) -> None:
    run = unkept(bench, refusing)
    later = bench.run(FAILS, by="bob")
    pass_time(run)
    reconcile.look_around()
    assert locks() == [WHY]
    refusing.on = False
    reconcile.look_around()
    settled(run)
    assert events("environment.unlock") == [("Lockstep", {})]
    assert lab.status(later) is RunStatus.PLAN_QUEUED
    assert bench.workdirs() == []


def settled(run: Run) -> None:
    """Its page says what it would have said if the state had been stored at once."""
    assert locks() == []
    db.session.refresh(run)
    version = states.latest(run.environment_id)
    assert version is not None and version.run_id == run.id
    assert (run.error_code, run.unkept) == ("internal", None)
    assert "could not be stored" not in run.error and "A fault of Lockstep" in run.error
    db.session.rollback()


def test_a_state_that_is_stored_a_moment_later_leaves_no_lock(
    bench: Bench, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ending.clear

    def clear(work: Work) -> None:
        refusing.on = False
        real(work)

    monkeypatch.setattr(ending, "clear", clear)
    run = bench.confirmed(FAILS)
    refusing.on = True
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert [name for name, _ in events("environment.lock") + events("environment.unlock")] == ["Lockstep"] * 2
    settled(run)


def test_the_worker_of_the_plan_unlocks_nothing(
    bench: Bench, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be there for minutes still: it reads the attributes of its plan."""
    reading, read = threading.Event(), threading.Event()

    def slowly(*_: object, **__: object) -> None:
        reading.set()
        assert read.wait(120)

    monkeypatch.setattr(job, "summarize", slowly)
    run = bench.run(FAILS)
    planning = bench.start(run.plan)
    assert reading.wait(120)
    db.session.rollback()
    db.session.refresh(run)
    runs.confirm(factories.member(), run)
    refusing.on = True
    assert bench.work(run.apply) is RunStatus.ERRORED
    read.set()
    planning.result()
    assert locks() == [WHY]


def test_an_upload_of_that_state_unlocks(bench: Bench, refusing: Refusing) -> None:
    run = unkept(bench, refusing)
    later = bench.run(FAILS, by="bob")
    content = state_of(bench)
    other = json.dumps({**json.loads(content), "serial": 1, "resources": []}).encode()
    state_writes.upload(factories.member(), bench.environment, other, force=False, typed_name="")
    assert locks() == [WHY], "it is not that state"
    state_writes.upload(factories.member(), bench.environment, content, force=False, typed_name="")
    settled(run)
    assert lab.status(later) is RunStatus.PLAN_QUEUED
    pass_time(run)
    reconcile.look_around()
    assert bench.workdirs() == []


def state_of(bench: Bench) -> bytes:
    [path] = (bench.home / "work").glob("*/state/terraform.tfstate")
    return path.read_bytes()


def test_whoever_takes_the_state_from_the_machine_has_not_stored_it(bench: Bench, refusing: Refusing) -> None:
    run = unkept(bench, refusing)
    content = state_of(bench)
    [path] = (bench.home / "work").glob("*/state/terraform.tfstate")
    path.unlink()
    pass_time(run)
    reconcile.look_around()
    assert locks() == [WHY]
    db.session.refresh(run)
    assert run.error_code == "state_unkept"
    state_writes.upload(factories.member(), bench.environment, content, force=False, typed_name="")
    settled(run)


def test_what_remains_when_the_newest_is_taken_away_settles_nothing(bench: Bench) -> None:
    """An older state, stored long ago, beside where the newest was: its errored.tfstate, say."""
    run = factories.run(bench.environment, RunStatus.ERRORED)
    run.apply.started_at = clock.now()
    db.session.commit()
    older = factories.state(run)
    run.finished_at = clock.now()
    for newest in ("of the newest", None):
        assert service.hold(run, service.Left("It stays there.", newest, "", ""))
        db.session.commit()
        assert not service.settle(run.id, older.md5)
        assert locks() == [WHY]
    later = factories.state(run, serial=2)  # the unreadable one, repaired
    assert service.settle(run.id, later.md5)
    assert locks() == []


def test_a_lock_by_hand_is_another_one(bench: Bench, refusing: Refusing, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    applying = bench.start(run.apply)
    lab.until(lambda: states.latest(bench.environment.id), "the state of the first resource")
    environments.lock(factories.member("bob"), bench.environment, "Freeze")
    refusing.on = True
    gate.touch()
    applying.result()
    by_hand = "bob, who locked it by hand: Freeze"
    assert (lab.status(run), locks()) == (RunStatus.ERRORED, [WHY, by_hand])
    later = bench.run(FAILS)
    environments.unlock(factories.member("bob"), bench.environment, str(factories.environment().lock_mark))
    assert (lab.status(later), locks()) == (RunStatus.PENDING, [WHY])
    environments.lock(factories.member("bob"), bench.environment, "Freeze")
    refusing.on = False
    pass_time(run)
    reconcile.look_around()
    assert (lab.status(later), locks()) == (RunStatus.PENDING, [by_hand])


def test_nothing_is_stored_under_the_lock_of_a_terminal(bench: Bench, refusing: Refusing) -> None:
    """Somebody unlocked and works from their terminal: its next state would be refused as an older one."""
    run = unkept(bench, refusing)
    service.release(factories.member("bob"), bench.environment, 1)
    state_locks.take(factories.member("bob"), bench.environment, {"ID": "x-1", "Operation": "OperationTypeApply"})
    refusing.on = False
    pass_time(run)
    reconcile.look_around()
    assert states.latest(bench.environment.id) is None


def test_what_is_found_on_a_machine_that_was_given_up_locks(bench: Bench, refusing: Refusing) -> None:
    run = unkept(bench, refusing)
    db.session.execute(update(Run).where(Run.id == run.id).values(unkept=None))
    bench.environment.unkept_run_id = None
    db.session.commit()
    pass_time(run)
    assert locks() == []
    for _ in range(2):
        reconcile.look_around()
        assert locks() == [WHY]
    assert len(events("environment.lock")) == 2
    db.session.refresh(run)
    assert run.error_code == "state_unkept" and run.error.count("It stays on the worker’s machine") == 2


def test_what_cannot_even_be_looked_at_ends_the_run_all_the_same(
    bench: Bench, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: Work) -> tuple[bytes, bool]:
        raise OSError

    run = bench.confirmed(FAILS)
    monkeypatch.setattr(keeping, "_newest", unreadable)
    refusing.on = True
    assert bench.work(run.apply) is RunStatus.ERRORED
    db.session.refresh(run)
    assert run.unkept is not None and run.unkept["md5"] is None
    assert locks() == [WHY]


def test_an_older_run_s_state_does_not_come_on_top_of_a_newer_one_s(bench: Bench, refusing: Refusing) -> None:
    older = unkept(bench, refusing)
    service.release(factories.member("bob"), bench.environment, 1)
    newer = bench.run(FAILS)
    refusing.on = False
    assert bench.work(newer.plan) is RunStatus.AWAITING_CONFIRMATION
    runs.confirm(factories.member(), newer)
    refusing.on = True
    assert bench.work(newer.apply) is RunStatus.ERRORED
    assert not service.hold(older, service.Left("It stays there.", None, "", "")), (
        "one at a time, and the newer one counts"
    )
    db.session.rollback()
    refusing.on = False
    pass_time(older)
    reconcile.look_around()
    assert states.latest(bench.environment.id) is None
    db.session.rollback()
    pass_time(newer)
    for _ in range(2):
        reconcile.look_around()
    version = states.latest(bench.environment.id)
    assert version is not None and version.run_id == newer.id and locks() == []


def test_a_state_that_an_apply_left_as_it_was_is_stored(bench: Bench) -> None:
    """It failed before it changed anything, and the database was away at that moment."""
    first = factories.run(bench.environment, RunStatus.APPLIED)
    before = factories.state(first)
    run = factories.run(bench.environment, RunStatus.INTERRUPTED)
    run.apply.started_at = clock.now()
    facts = interruption.known(run, run.apply) | {"step": "apply", "unkept": "It stays there."}
    run.interruption, run.error = facts, interruption.sentence(run.apply.kind, facts)
    assert service.hold(run, service.Left("It stays there.", before.md5, "", "vanished"))
    db.session.commit()
    assert service.settle(run.id)
    assert locks() == [] and not service.settle(run.id)
    db.session.refresh(before)
    assert before.run_id == first.id
    assert run.interruption is not None and (run.interruption["unkept"], run.interruption["serial"]) == ("", 1)
    assert "The state was saved up to serial 1" in run.error and "It stays there" not in run.error
