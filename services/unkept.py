"""A state that could not be stored, and so is nowhere but on the machine of the worker that ran the apply.

What ran next would work on the older one and create everything a second time. So the environment is locked, until
exactly that state is stored, by the worker or as an upload, or until a person says that runs may go on.

A run's ``unkept`` has these keys: ``sentence`` (which says where the state is), ``md5`` (of that state, None where it
cannot be stored here), and ``error`` and ``code``: what the run's page says of its end once the state is stored.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from extensions import db
from models import Environment, Membership, Run, StateVersion
from policy.permissions import Permission
from services import audit, runs
from services.access import require
from services.compare_and_set import won
from services.errors import Conflict


def hold(run: Run, sentence: str, md5: str | None, error: str, code: str) -> None:
    """Lock the environment for the sake of this run's state, with an audit event; the caller commits."""
    run.unkept = {"sentence": sentence, "md5": md5, "error": error, "code": code}
    here = update(Environment).where(Environment.id == run.environment_id)
    db.session.execute(here.values(unkept_run_id=run.id))
    audit.record("environment.lock", None, run=run, reason=sentence)


def settle(run_id: int) -> None:
    """Where the state that a run left is stored by now, its page says so, and the lock comes off; commits.

    Somebody's upload of it is that run's state from now on.
    """
    run = db.session.get_one(Run, run_id, populate_existing=True)
    version = _stored(run, run.unkept) if run.unkept else None
    if version is None:
        db.session.commit()
        return
    db.session.refresh(run, with_for_update={"of": Run})
    left, environment_id = run.unkept, run.environment_id
    if left is None:  # settled at this moment
        db.session.commit()
        return
    version.run_id = run.id
    run.error, run.error_code, run.unkept = left["error"], left["code"], None
    if run.interruption is not None:
        run.interruption = run.interruption | {"unkept": "", "serial": version.serial}
    unlocked = _unlock(environment_id, run_id)
    if unlocked:
        audit.record("environment.unlock", None, run=run)
    db.session.commit()
    if unlocked:
        runs.start_all(environment_id)


def release(membership: Membership, environment: Environment, seen: int) -> None:
    """Let runs go on without the state that run number ``seen`` left, and commit.

    Raises :class:`services.errors.Forbidden`, and :class:`Conflict` where that lock is gone or another run's.
    """
    require(membership, Permission.LOCK, "You cannot unlock this environment.", environment)
    run = db.session.get(Run, environment.unkept_run_id) if environment.unkept_run_id is not None else None
    if run is None or run.number != seen or not _unlock(environment.id, run.id):
        db.session.rollback()
        raise Conflict("That lock is gone already. Nothing was changed; look at the settings as they are now.")
    audit.record("environment.unlock", membership.user, run=run)
    environment_id = environment.id
    db.session.commit()
    runs.start_all(environment_id)


def _unlock(environment_id: int, run_id: int) -> bool:
    mine = update(Environment).where(Environment.id == environment_id, Environment.unkept_run_id == run_id)
    return won(mine.values(unkept_run_id=None))


def _stored(run: Run, left: dict[str, Any]) -> StateVersion | None:
    """The version that is this state, byte by byte, stored since its apply began."""
    begun = run.apply.started_at or run.created_at
    same = StateVersion.environment_id == run.environment_id, StateVersion.md5 == left["md5"]
    query = select(StateVersion).where(*same, StateVersion.created_at >= begun)
    return db.session.scalar(query.order_by(StateVersion.number.desc()).limit(1))
