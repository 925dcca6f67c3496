"""Which run holds an environment. Both changes are compare-and-set; the caller commits."""

from __future__ import annotations

from sqlalchemy import update

from extensions import db
from models import Environment
from services.compare_and_set import won


def hold(environment_id: int, run_id: int) -> bool:
    """Make ``run_id`` the environment's active run, unless another is or it is locked by hand."""
    statement = update(Environment).where(
        Environment.id == environment_id,
        Environment.active_run_id.is_(None),
        Environment.locked_by_id.is_(None),
    )
    return won(statement.values(active_run_id=run_id))


def release(environment_id: int, run_id: int) -> None:
    """The run no longer holds the environment."""
    statement = update(Environment).where(Environment.id == environment_id, Environment.active_run_id == run_id)
    db.session.execute(statement.values(active_run_id=None))
