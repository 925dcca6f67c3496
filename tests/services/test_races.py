"""Two at the same moment, on a real PostgreSQL: SQLite lets one writer in at a time, and hides what is not guarded."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

import config
from extensions import db
from models import AuditEvent, Category, Environment, Phase, PhaseStatus, Run, StateVersion, Variable
from policy.lifecycle import Event, RunStatus
from policy.mfa import MfaLevel
from services import environments, queue, runs, state_locks, states, variables
from services.environments import Settings
from services.errors import Conflict, NotFound
from services.execution import beginning, taking
from services.storage import logs
from services.storage.vault import generate_key
from services.variables import Place
from tests import factories
from tests.factories import World, make_world
from tests.support import lab, postgres
from tests.support.app import running_app
from tests.support.aws import Aws
from tests.support.client import Client

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5


@pytest.fixture(scope="module")
def postgres_app(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, postgres_server: postgres.Server, one_aws: Aws
) -> Iterator[Flask]:
    environ = {
        "LOCKSTEP_HOME": str(tmp_path_factory.mktemp("home")),
        "REDIS_URL": redis_url,
        "DATABASE_URL": postgres_server.database(),
        "AWS_ENDPOINT_URL": one_aws.endpoint,
    }
    with running_app(config.load(environ)) as app:
        yield app


@pytest.fixture
def application(postgres_app: Flask) -> Flask:
    """The application whose tables the usual fixtures empty for each test."""
    return postgres_app


def at_once(app: Flask, *calls: Callable[[], Any]) -> list[Any]:
    """What calls answer or raise that start at the same moment, each in a session of its own."""
    start = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        db.session.execute(db.text("SELECT 1"))  # the connection is made before
        db.session.commit()
        start.wait(20)
        return call()

    besides = [lab.Beside(app, partial(begin, call)) for call in calls]
    answers = []
    for beside in besides:
        try:
            answers.append(beside.result(60))
        except Exception as error:
            answers.append(error)
    db.session.rollback()
    db.session.expire_all()
    return answers


def kinds(answers: list[Any]) -> list[str]:
    return sorted(type(answer).__name__ for answer in answers)


def run_of(run_id: int) -> Run:
    return db.session.get_one(Run, run_id, populate_existing=True)


def acting(act: Callable[[Any, Run], Any], run_id: int, by: str = "alice") -> Any:
    return act(factories.member(by), run_of(run_id))


confirm = partial(acting, runs.confirm)


def lock(run_id: int) -> None:
    environments.lock(factories.member(), run_of(run_id).environment, "Maintenance")


def fresh(status: RunStatus, name: str, level: MfaLevel = MfaLevel.NEVER) -> int:
    """A run in this status in an environment of its own."""
    return factories.run(factories.environment(name, mfa_level=level), status).id


def test_two_clicks_queue_one_run(app: Flask, world: World) -> None:
    with app.app_context():
        factories.configuration(factories.environment())
    clients = [app.test_client() for _ in range(2)]
    tokens = []
    for client in clients:
        assert isinstance(client, Client)
        tokens.append(client.sign_in("alice").token())
    for seen in range(ROUNDS):
        start = threading.Barrier(2)

        found: list[str] = []

        def click(
            client: Any, token: str, seen: int = seen, start: threading.Barrier = start, found: list[str] = found
        ) -> None:
            start.wait(20)
            answer = client.post(f"{world.path}/changes/runs", data={"csrf_token": token, "seen": str(seen)})
            found.append(answer.headers.get("Location", answer.status).rsplit("/", 1)[-1])

        threads = [
            threading.Thread(target=click, args=(client, token)) for client, token in zip(clients, tokens, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [f"{seen + 1}"] * 2


def test_two_confirmations_start_one_apply(here: Flask) -> None:
    for number in range(ROUNDS):
        run_id = fresh(RunStatus.AWAITING_CONFIRMATION, f"e{number}")
        answers = at_once(here, *(partial(confirm, run_id, by) for by in ("alice", "bob")))
        assert kinds(answers) == ["Conflict", "RunStatus"], answers
        assert run_of(run_id).status is RunStatus.APPLY_QUEUED
    assert db.session.query(AuditEvent).filter_by(action="run.confirm").count() == ROUNDS
    assert len(lab.queued_jobs()) == ROUNDS


def test_confirm_against_discard(here: Flask) -> None:
    for number in range(ROUNDS):
        run_id = fresh(RunStatus.AWAITING_CONFIRMATION, f"e{number}")
        answers = at_once(
            here,
            partial(confirm, run_id),
            partial(acting, runs.discard, run_id, "bob"),
        )
        assert len([each for each in answers if isinstance(each, Conflict)]) == 1, answers
        run = run_of(run_id)
        held = run.environment.active_run_id
        assert (run.status, held) in ((RunStatus.APPLY_QUEUED, run_id), (RunStatus.DISCARDED, None))


def type_in(run_id: int, code: str, by: str = "alice") -> None:
    lab.authenticate(run_of(run_id), code, by)


def awaiting(name: str) -> int:
    """A run that awaits a code for its plan, in an environment of its own."""
    return fresh(RunStatus.AWAITING_PLAN_AUTHENTICATION, name, MfaLevel.PLANS_AND_APPLIES)


def test_one_code_typed_twice_is_one_call(here: Flask, aws: Aws) -> None:
    lab.aws_keys(aws)
    for number in range(ROUNDS):
        run_id, code = awaiting(f"e{number}"), aws.code()
        answers = at_once(here, *[partial(type_in, run_id, code)] * 2)
        assert kinds(answers) in (["Conflict", "NoneType"], ["CodeRejected", "NoneType"]), answers
        assert run_of(run_id).status is RunStatus.PLAN_QUEUED
    assert aws.outcomes() == ["ok"] * ROUNDS
    assert len(lab.queued_jobs()) == ROUNDS


def test_two_runs_of_one_environment_get_a_code_at_once(here: Flask, aws: Aws) -> None:
    """Only one can hold it; the other is told so, and waits on."""
    for person in ("alice", "bob"):
        lab.aws_keys(aws, person)
    for number in range(ROUNDS):
        pair = [awaiting(f"e{number}") for _ in range(2)]
        first, second = aws.code("alice"), aws.code("bob")
        answers = at_once(here, partial(type_in, pair[0], first), partial(type_in, pair[1], second, "bob"))
        assert [type(each).__name__ for each in answers].count("NoneType") == 1, answers
        statuses = sorted(run_of(each).status for each in pair)
        assert statuses == [RunStatus.AWAITING_PLAN_AUTHENTICATION, RunStatus.PLAN_QUEUED]


def test_cancel_against_a_code(here: Flask, aws: Aws) -> None:
    lab.aws_keys(aws)
    for number in range(ROUNDS):
        run_id, code = awaiting(f"e{number}"), aws.code()
        canceled, accepted = at_once(
            here,
            partial(acting, runs.cancel, run_id),
            partial(type_in, run_id, code),
        )
        run = run_of(run_id)
        left = queue.connection().exists(f"lockstep:handoff:{run.plan.id}")
        if accepted is None and canceled is not None:
            assert (run.status, run.environment.active_run_id, left) == (RunStatus.PLAN_QUEUED, run_id, 1)
        else:
            assert (run.status, run.environment.active_run_id, left) == (RunStatus.CANCELED, None, 0), accepted


def queued(name: str) -> tuple[int, int]:
    """A run whose plan is queued: its id and the phase's."""
    run = run_of(fresh(RunStatus.PLAN_QUEUED, name))
    runs.queue_phase(run, run.plan.kind)
    return run.id, run.plan.id


def test_two_workers_take_one_phase(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "prepare", lambda *_: "taken")
    for number in range(ROUNDS):
        _, phase_id = queued(f"e{number}")
        answers = at_once(here, *[partial(taking.take, phase_id)] * 2)
        assert sorted(map(str, answers)) == ["None", "taken"]


def test_cancel_against_take(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "prepare", lambda *_: "taken")
    for number in range(ROUNDS):
        run_id, phase_id = queued(f"e{number}")
        canceled, taken = at_once(
            here,
            partial(acting, runs.cancel, run_id),
            partial(taking.take, phase_id),
        )
        run = run_of(run_id)
        phase = db.session.get_one(Phase, phase_id, populate_existing=True)
        if taken is None:
            assert (run.status, phase.status, canceled) == (RunStatus.CANCELED, PhaseStatus.CANCELED, None)
        else:
            # A cancel that saw it running asked the worker; one that did not was told so.
            assert (run.status, phase.status) == (RunStatus.PLANNING, PhaseStatus.RUNNING), (canceled, taken)
            assert isinstance(canceled, Conflict) is (run.cancel_requested_at is None)


def test_lock_against_confirm(here: Flask) -> None:
    for number in range(ROUNDS):
        run_id = fresh(RunStatus.AWAITING_CONFIRMATION, f"e{number}")
        confirmed, locked = at_once(
            here,
            partial(confirm, run_id, "bob"),
            partial(lock, run_id),
        )
        assert locked is None
        run = run_of(run_id)
        waits = isinstance(confirmed, Conflict)
        assert run.status is (RunStatus.AWAITING_CONFIRMATION if waits else RunStatus.APPLY_QUEUED), confirmed
        if waits:
            assert "is locked by alice" in str(confirmed)


def test_lock_against_take(here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "prepare", lambda *_: "taken")
    for number in range(ROUNDS):
        run_id, phase_id = queued(f"e{number}")
        taken, locked = at_once(here, partial(taking.take, phase_id), partial(lock, run_id))
        assert locked is None
        run, phase = run_of(run_id), db.session.get_one(Phase, phase_id, populate_existing=True)
        of_it = select(AuditEvent.action).where(AuditEvent.environment_id == run.environment_id)
        events = list(db.session.scalars(of_it.order_by(AuditEvent.sequence)))
        if taken is None:
            assert (run.status, phase.status) == (RunStatus.PLAN_QUEUED, PhaseStatus.QUEUED)
            assert events == ["environment.lock"]
        else:
            assert (run.status, events) == (RunStatus.PLANNING, ["run.take", "environment.lock"]), taken


def test_two_freed_environments_start_one_run_each(here: Flask) -> None:
    for number in range(ROUNDS):
        environment = factories.environment(f"e{number}")
        waiting = [factories.run(environment).id for _ in range(2)]
        environment_id = environment.id
        at_once(here, *[partial(runs.start_pending, environment_id)] * 3)
        assert [run_of(each).status for each in waiting] == [RunStatus.PLAN_QUEUED, RunStatus.PENDING]
        assert db.session.get_one(Environment, environment_id).active_run_id == waiting[0]


def test_two_terminals_and_a_run_want_one_environment(here: Flask) -> None:
    for number in range(ROUNDS):
        environment = factories.environment(f"e{number}")
        environment_id, run_id = environment.id, factories.run(environment).id

        def lock_state(lock: str, by: str, environment_id: int = environment_id) -> str:
            found = db.session.get_one(Environment, environment_id)
            state_locks.take(factories.member(by), found, {"ID": lock, "Operation": "OperationTypeApply"})
            return lock

        ids = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"]
        answers = at_once(
            here,
            partial(lock_state, ids[0], "alice"),
            partial(lock_state, ids[1], "bob"),
            partial(runs.start_pending, environment_id),
        )
        environment = db.session.get_one(Environment, environment_id, populate_existing=True)
        taken = [answer for answer in answers[:2] if isinstance(answer, str)]
        assert all(isinstance(each, str | state_locks.Locked) for each in answers[:2]), answers
        started = run_of(run_id).status is RunStatus.PLAN_QUEUED
        assert environment.state_lock_id == next(iter(taken), None)
        assert environment.active_run_id == (run_id if started else None)
        assert len(taken) + started == 1


def test_a_raised_level_reaches_a_plan_that_ends_at_this_moment(here: Flask) -> None:
    """Each sees the moment before the other: without a lock the run would await a confirmation behind an MFA gate."""
    run_id = fresh(RunStatus.PLANNING, "e")
    ending, go_on = threading.Event(), threading.Event()

    def finish() -> None:
        run = run_of(run_id)
        db.session.refresh(run, with_for_update={"of": Run})  # as services/execution/ending.py does it
        runs.transition(run, Event.FINISH_PLAN)
        ending.set()
        assert go_on.wait(20)
        db.session.commit()

    def raise_level() -> None:
        assert ending.wait(20)
        threading.Timer(0.3, go_on.set).start()  # time for an unguarded one to look past the plan
        wanted = Settings(MfaLevel.APPLIES_ONLY, 3600, "", "")
        environments.save_settings(factories.member(), run_of(run_id).environment, wanted)

    assert at_once(here, finish, raise_level) == [None, None]
    assert run_of(run_id).status is RunStatus.AWAITING_APPLY_AUTHENTICATION


def test_two_who_change_the_level_from_one_page_at_once(here: Flask) -> None:
    for _ in range(ROUNDS):
        environment = factories.environment("levels", mfa_level=MfaLevel.APPLIES_ONLY)
        shown = Settings.of(environment)

        def save(level: MfaLevel, shown: Settings = shown) -> None:
            environments.save_settings(
                factories.member(), factories.environment("levels"), replace(shown, mfa_level=level), shown
            )

        answers = at_once(here, partial(save, MfaLevel.NEVER), partial(save, MfaLevel.PLANS_AND_APPLIES))
        assert kinds(answers) == ["NoneType", "Outdated"]
        won = (MfaLevel.NEVER, MfaLevel.PLANS_AND_APPLIES)[answers.index(None)]
        assert factories.environment("levels").mfa_level is won


def test_a_variable_that_is_deleted_while_it_is_changed(here: Flask) -> None:
    for number in range(ROUNDS):
        variable = factories.variable(f"NAME_{number}", "before")
        number_, name, seen = variable.id, variable.name, variable.mark

        def change(number_: int = number_, name: str = name, seen: str = seen) -> Variable:
            place = Place(factories.organization("acme"), None, None)
            kind = Category.ENV
            member = factories.member()
            return variables.save(
                member, place, category=kind, name=name, value="after", sensitive=False, variable_id=number_, seen=seen
            )

        def delete(number_: int = number_, seen: str = seen) -> str:
            place = Place(factories.organization("acme"), None, None)
            return variables.delete(factories.member(), place, number_, seen)

        changed, deleted = at_once(here, change, delete)
        # Whoever comes second has not seen what the first one made of it.
        if isinstance(changed, Variable):
            assert isinstance(deleted, Conflict) and db.session.get(Variable, number_) is not None
        else:
            assert isinstance(changed, NotFound) and deleted == name and db.session.get(Variable, number_) is None


def test_two_clicks_at_once_save_a_variable_once(here: Flask) -> None:
    for number in range(ROUNDS):
        variable = factories.variable(f"NAME_{number}", "before")
        at = {"name": variable.name, "variable_id": variable.id, "seen": variable.mark}

        def change(at: dict[str, Any] = at) -> None:
            place = Place(factories.organization("acme"))
            variables.save(factories.member(), place, category=Category.ENV, value="after", sensitive=False, **at)

        assert at_once(here, change, change) == [None, None]
    assert db.session.query(AuditEvent).filter_by(action="variable.change").count() == ROUNDS


def test_no_line_of_lockstep_is_lost(here: Flask) -> None:
    run_id = fresh(RunStatus.APPLYING, "e")

    def say(who: str) -> None:
        for number in range(20):
            logs.say(run_of(run_id).apply.id, f"{who} {number}")
            db.session.commit()

    assert at_once(here, *(partial(say, who) for who in "abc")) == [None] * 3
    lines = lab.log_of(run_of(run_id).apply).splitlines()
    assert sorted(lines) == sorted(f"{who} {number}" for who in "abc" for number in range(20))


def test_two_states_of_one_run_at_once(here: Flask) -> None:
    """Two workers that both believe to have the phase store the same state."""
    run_id = fresh(RunStatus.APPLYING, "e")
    content = b'{"version": 4, "serial": 3, "lineage": "a", "terraform_version": "1.11.4", "resources": []}'

    first, go_on = threading.Event(), threading.Event()

    def store() -> None:
        states.store(run_of(run_id), content)
        first.set()
        assert go_on.wait(20)
        db.session.commit()

    def store_too() -> None:
        assert first.wait(20)
        threading.Timer(0.3, go_on.set).start()
        states.store(run_of(run_id), content)
        db.session.commit()

    assert at_once(here, store, store_too) == [None, None]
    assert [version.serial for version in db.session.query(StateVersion)] == [3]


def test_two_machines_make_the_tables_at_once(tmp_path: Path, postgres_server: postgres.Server, redis_url: str) -> None:
    url, keys = postgres_server.database(), generate_key()
    started = []
    for number in range(2):
        environ = {
            "PATH": os.environ["PATH"],
            "LOCKSTEP_HOME": str(tmp_path / str(number)),
            "DATABASE_URL": url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": "one for both machines",
            "ENCRYPTION_KEYS": keys,
        }
        command = [sys.executable, "-m", "deploy.prepare"]
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]


def test_the_world_is_on_postgresql(app: Flask) -> None:
    make_world(app)
    with app.app_context():
        assert db.engine.dialect.name == "postgresql"
        assert queue.connection().ping()
