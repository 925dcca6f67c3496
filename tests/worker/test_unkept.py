"""A state that could not be stored: nothing works on the older one by itself until it is saved, or somebody says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from extensions import db
from models import AuditEvent, Phase, Run
from policy.lifecycle import RunStatus
from services import clock, environments, state_writes, states
from services.errors import Conflict
from services.execution import ending, reconcile
from tests import factories
from tests.support import lab
from tests.worker.configurations import TWO, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

#: The second resource cannot be made.
FAILS = TWO.replace('"world"', '"world"\n  provisioner "local-exec" {\n    command = "exit 1"\n  }')

WHY = "Run #1 left its newest state on the worker’s machine"


class Refusing:
    """A store of states that takes none for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on, self._real = False, states.store
        monkeypatch.setattr(states, "store", self)

    def __call__(self, *args: Any, **more: Any) -> Any:
        if self.on:
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


def lock() -> tuple[str | None, str]:
    """Who locked the environment, and why."""
    environment = factories.environment()
    db.session.refresh(environment)
    found = environment.locker, environment.lock_reason
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


def test_the_next_run_waits_until_somebody_unlocks(bench: Bench, refusing: Refusing) -> None:
    unkept(bench, refusing)
    assert lock() == ("Lockstep", WHY)
    assert events("environment.lock") == [("Lockstep", {"reason": WHY})]
    later = bench.run(FAILS, by="bob")
    assert lab.status(later) is RunStatus.PENDING
    reconcile.look_around()
    assert lab.status(later) is RunStatus.PENDING
    environments.unlock(factories.member("bob"), bench.environment, str(bench.environment.lock_mark))
    assert lab.status(later) is RunStatus.PLAN_QUEUED


def test_a_run_that_was_pending_before_waits_too(bench: Bench, refusing: Refusing) -> None:
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
    assert lock() == ("Lockstep", WHY)
    refusing.on = False
    reconcile.look_around()
    assert lock() == (None, "")
    assert events("environment.unlock") == [("Lockstep", {})]
    assert lab.status(later) is RunStatus.PLAN_QUEUED
    db.session.refresh(run)
    assert (run.error_code, states.latest(run.environment_id).run_id) == ("", run.id)  # type: ignore[union-attr]
    assert run.error.endswith("Terraform’s state could not be stored at once. It is now.")
    assert bench.workdirs() == []


def test_a_state_that_is_stored_a_moment_later_leaves_no_lock(
    bench: Bench, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ending.clear

    def clear(work: Any) -> None:
        refusing.on = False
        real(work)

    monkeypatch.setattr(ending, "clear", clear)
    run = bench.confirmed(FAILS)
    refusing.on = True
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert lock() == (None, "")
    assert [name for name, _ in events("environment.lock") + events("environment.unlock")] == ["Lockstep"] * 2
    db.session.refresh(run)
    assert run.error.endswith("It is now.")


def test_the_uploaded_state_is_what_was_missing(bench: Bench, refusing: Refusing) -> None:
    run = unkept(bench, refusing)
    [path] = (bench.home / "work").glob("*/state/terraform.tfstate")
    content = path.read_bytes()
    member = factories.member("alice")
    state_writes.upload(member, bench.environment, content, force=False, typed_name="")
    assert lock() == ("Lockstep", WHY), "nobody but Lockstep knows that it is this state"
    pass_time(run)
    reconcile.look_around()
    assert lock() == (None, "")
    assert bench.workdirs() == []


def test_a_lock_by_hand_stays_and_says_it_too(bench: Bench, refusing: Refusing, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    applying = bench.start(run.apply)
    lab.until(lambda: states.latest(bench.environment.id), "the state of the first resource")
    environments.lock(factories.member("bob"), bench.environment, "Freeze")
    old = str(bench.environment.lock_mark)
    refusing.on = True
    gate.touch()
    applying.result()
    assert lab.status(run) is RunStatus.ERRORED
    assert lock() == ("bob", f"Freeze ({WHY})")
    with pytest.raises(Conflict, match="your page did not show this lock"):
        environments.unlock(factories.member("bob"), bench.environment, old)
    refusing.on = False
    pass_time(run)
    reconcile.look_around()
    assert lock() == ("bob", "Freeze")
    assert json.loads(states.content(bench.environment, 1)[1])["resources"]
