"""The lease of a phase, in the hand of who writes its log."""

from __future__ import annotations

from typing import cast

from sqlalchemy import Table, bindparam, update

from extensions import db
from models import Phase, PhaseStatus
from services import clock
from services.compare_and_set import won

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


def hold(phase_id: int, worker: str) -> None:
    """Renew the lease in the transaction of what only its holder may write; the caller commits.

    So the log has one writer at a time, whose lines nobody else's push aside. Raises :class:`Superseded` when it is
    another worker's, or an owner gave up on it.
    """
    if not won(_HOLD, phase=phase_id, of_worker=worker, now=clock.now()):
        db.session.rollback()
        raise Superseded
