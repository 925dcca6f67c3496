"""A phase's bookkeeping played through on a database in memory, before the fork, for the statements that it compiles.

SQLAlchemy compiles each kind of statement once and keeps it with the engine (`compiled_cache`), in a fork for that fork
alone: a phase would spend a tenth of a second on it, each again. The installation's database has no part in this. The
engine in memory has its dialect, by which what is compiled is kept; so it is for SQLite alone.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

from flask import Flask, current_app
from sqlalchemy import Engine, StaticPool, create_engine, select

from extensions import db
from models import Blob, ConfigurationVersion, Environment, Organization, Phase, PhaseStatus, Run, User
from policy.lifecycle import Event, RunStatus
from policy.mfa import PhaseKind
from services import clock, runs, states, variables
from services.execution import beginning, ending, follow, host, lease, steps, stopping, taking
from services.execution.redact import HideAll
from services.execution.work import Work
from services.execution.workdir import Workdir
from services.storage import logs

log = logging.getLogger(__name__)

_STATE = {"version": 4, "serial": 1, "lineage": "rehearsal", "terraform_version": "1.0.0", "resources": []}

_rehearsed: WeakSet[Engine] = WeakSet()


def rehearse() -> bool:
    """Compile what a plan and an apply will execute, once for each engine. False where the database is no SQLite.

    A fault in it fails no start: what was not compiled, each phase compiles.
    """
    app: Flask = current_app._get_current_object()
    with app.app_context():
        engine = db.engine
        if engine.dialect.name != "sqlite":
            return False
        if engine in _rehearsed:
            return True
        _rehearsed.add(engine)
        options = {"compiled_cache": engine._compiled_cache}
        memory = create_engine("sqlite://", poolclass=StaticPool, execution_options=options)
        memory.dialect = engine.dialect
        factory = db.session.session_factory

        into_memory = type("_Session", (factory.class_,), {"get_bind": lambda *_, **__: memory})
        db.session.registry.set(into_memory(**factory.kw))
        try:
            db.metadata.create_all(memory)
            _play()
        except Exception as error:
            log.warning("the statements of a phase are not all compiled before: %s", type(error).__name__)
        finally:
            db.session.remove()
            memory.dispose()
        return True


def _play() -> None:
    run = _run()
    for kind, finish in ((PhaseKind.PLAN, Event.FINISH_PLAN), (PhaseKind.APPLY, Event.FINISH_APPLY)):
        phase_id = db.session.scalars(select(Phase.id).where(Phase.run_id == run, Phase.kind == kind)).one()
        db.session.commit()
        db.session.expunge_all()
        _phase(phase_id, finish)


def _run() -> int:
    now = clock.now()
    user = User(name="rehearsal", email="", password_hash="", created_at=now)
    environment = Environment(name="it", organization=Organization(name="it", created_at=now), created_at=now)
    blob = Blob(id="it", kind="configuration", digest="", size=0, created_at=now, data=b"")
    db.session.add_all([user, environment, blob])
    db.session.flush()
    configuration = ConfigurationVersion(
        environment_id=environment.id, number=1, message="", filename="", archive_kind="zip", digest="", size=0,
        files=0, blob_id=blob.id, uploaded_at=now, uploaded_by_id=user.id,
    )  # fmt: skip
    db.session.add(configuration)
    db.session.flush()
    made = Run(
        environment=environment, number=1, status=RunStatus.PLAN_QUEUED, created_by=user, created_at=now, message="",
        mfa_level=environment.mfa_level, configuration_id=configuration.id,
    )  # fmt: skip
    made.phases = [Phase(kind=kind, actor=user, status=PhaseStatus.QUEUED) for kind in PhaseKind]
    db.session.add(made)
    db.session.flush()
    environment.active_run_id = made.id
    db.session.commit()
    return made.id


def _phase(phase_id: int, finish: Event) -> None:
    """What `taking.py`, `job.py`, `steps.py` and `follow.py` ask the database for, in their order."""
    phase = steps.of_run(phase_id, lock=True)
    assert phase is not None  # noqa: S101 (made above)
    beginning.barred(phase)
    taking.mark(phase)
    phase = steps.of_run(phase_id)
    assert phase is not None  # noqa: S101
    run = phase.run
    given = variables.resolve(phase.actor or run.created_by, run.environment.organization, run.environment)
    states.latest(run.environment_id)
    steps.to_hide(run, replace(given, secrets=("a secret",)), None)
    work = Work(
        run_id=run.id, phase_id=phase_id, environment_id=run.environment_id, kind=phase.kind, configuration=1,
        workdir=Workdir(Path("/nonexistent")), terraform=None, environment=None, show_environment={},
        redactor=HideAll(), credentials=None, region=None, version="", worker=host.worker(),
    )  # fmt: skip
    db.session.commit()
    logs.say(work.phase_id, "It begins")
    db.session.commit()
    lease.beat(work.phase_id, work.worker)
    stopping.asked(work.run_id)
    pieces = [(work.phase.log_size, b"a line\n")]
    logs.append_all(phase_id, pieces, spool_offset=7)
    db.session.commit()
    if work.kind is PhaseKind.APPLY and not current_app.config["LOCKSTEP"].blob_store:
        states.store(work.run, json.dumps(_STATE).encode())
        db.session.commit()
    outcome = follow.Outcome(0, "", interrupted=False, seconds=0.0)
    ending.finish(work, finish, outcome, "It has ended", {"terraform_version": "", "counts": None})
    if finish is Event.FINISH_PLAN:
        runs.transition(work.run, Event.CONFIRM)
        db.session.commit()
