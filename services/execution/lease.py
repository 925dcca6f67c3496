"""The lease of a phase: who holds it follows the phase, and nobody else writes its log or uses its directory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, cast

from flask import current_app
from sqlalchemy import Table, bindparam, select, update

from extensions import db
from models import Phase, PhaseStatus
from services import clock
from services.compare_and_set import won
from services.execution import host
from services.execution.steady import AWAY

#: Seconds between two signs that a phase is held.
HEARTBEAT = 5.0

_PHASE = cast("Table", Phase.__table__)
#: Of the table, not of the class: nothing that the session knows has to follow it, and it is built once.
_HOLD = (
    update(_PHASE)
    .where(
        _PHASE.c.id == bindparam("phase"),
        _PHASE.c.worker == bindparam("of_worker"),
        _PHASE.c.status == PhaseStatus.RUNNING,
    )
    .values(heartbeat_at=bindparam("now"))
)


class Superseded(Exception):
    """Another worker took the phase over; this one must not touch anything any more."""


def taken() -> dict[str, Any]:
    """The columns of a phase that say that this process holds it from now on."""
    return {"worker": host.worker(), "heartbeat_at": clock.now()}


def require(phase_id: int, worker: str) -> None:
    """Raise :class:`Superseded` where :func:`hold` would, and renew nothing; commits."""
    mine = (Phase.id == phase_id, Phase.worker == worker, Phase.status == PhaseStatus.RUNNING)
    found = db.session.scalar(select(Phase.id).where(*mine))
    db.session.commit()
    if found is None:
        raise Superseded


def hold(phase_id: int, worker: str) -> None:
    """Renew the lease in the transaction of what only its holder may write; the caller commits.

    So the log has one writer at a time, whose lines nobody else's push aside. Raises :class:`Superseded` when it is
    another worker's, or an owner gave up on it.
    """
    if not won(_HOLD, phase=phase_id, of_worker=worker, now=clock.now()):
        db.session.rollback()
        raise Superseded


def beat(phase_id: int, worker: str) -> None:
    """Renew the lease; commits. Raises as :func:`hold`."""
    hold(phase_id, worker)
    db.session.commit()


@contextlib.contextmanager
def held(phase_id: int) -> Iterator[None]:
    """Renew the lease of a phase beside what takes its time while no terraform is followed, such as unpacking a large
    archive or storing a plan.

    Else another worker would take it over and use the same working directory.
    """
    app, done = current_app._get_current_object(), threading.Event()
    worker = host.worker()

    def _beat() -> None:
        with app.app_context():
            while not done.wait(HEARTBEAT):
                with contextlib.suppress(*AWAY, Superseded):
                    beat(phase_id, worker)
                db.session.remove()

    thread = threading.Thread(target=_beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
