"""A phase that waits for the object store: it keeps its lease, and its log says so once the wait lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import select

from extensions import db
from models import Phase, Run
from services.execution.lease import beat, hold
from services.execution.steady import steadily
from services.execution.work import CancelCame
from services.storage import logs
from services.storage.object_store import StoreAway

T = TypeVar("T")

#: Seconds that pass before the log says anything.
TOLD_AFTER = 5.0


class StoreWait:
    """One wait of a phase that this worker holds. ``what`` is the sentence that says what waits.

    Nothing else may write into the log meanwhile: where a line stands is known from the first try on, so that it is
    there once whatever became of a commit.
    """

    def __init__(self, phase_id: int, worker: str, what: str) -> None:
        self._phase_id, self._worker, self._what = phase_id, worker, what
        self._since = time.monotonic()
        self._places: dict[str, int] = {}

    def through(self, call: Callable[[], T], *, cancel: bool = False) -> T:
        """As :func:`steadily`. Raises :class:`lease.Superseded` once the phase is no longer this worker's.

        With ``cancel``, where giving up loses nothing, raises :class:`work.CancelCame` once somebody wants that.
        """

        def _meanwhile(away: StoreAway) -> None:
            self._look(away)
            if cancel and self._canceled():
                raise CancelCame

        answer = steadily(call, _meanwhile)
        steadily(self._over)
        return answer

    def _look(self, away: StoreAway) -> None:
        if time.monotonic() - self._since >= TOLD_AFTER:
            how = f"The object store does not take or give anything ({away.reason})"
            self._say(f"{self._what} {how}; the run goes on by itself as soon as it does.", "error")
        else:
            beat(self._phase_id, self._worker)

    def _canceled(self) -> bool:
        of_run = select(Run.cancel_requested_at).join(Phase, Phase.run_id == Run.id)
        asked = db.session.scalars(of_run.where(Phase.id == self._phase_id)).one()
        db.session.commit()
        return asked is not None

    def _over(self) -> None:
        if self._places:
            self._say("The object store answers again.", "own")

    def _say(self, line: str, tone: str) -> None:
        hold(self._phase_id, self._worker)
        if tone not in self._places:
            self._places[tone] = db.session.scalars(select(Phase.log_size).where(Phase.id == self._phase_id)).one()
        logs.append(self._phase_id, self._places[tone], f"{line}\n".encode(), tone=tone)
        db.session.commit()
