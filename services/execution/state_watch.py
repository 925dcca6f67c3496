"""The state that an apply leaves in its working directory: stored after each resource, and in any case at its end."""

from __future__ import annotations

import logging
import time

from extensions import db
from services.execution import inside, keeping, lease
from services.execution.lease import Superseded
from services.execution.steady import AWAY
from services.execution.store_wait import StoreWait
from services.execution.work import PhaseFailed, Work
from services.states import StaleState
from services.storage.object_store import StoreAway

log = logging.getLogger(__name__)

#: Seconds until a state that was refused in the middle of an apply is tried again.
REFUSED = 30.0

_LAST = "Terraform is done, and the state waits on the worker’s machine to be stored."


class StateWatch:
    """Looks at the state file of one apply."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._seen = 0
        self._next = 0.0

    def look(self) -> None:
        """Store the state where it has changed; commits. A database or a bucket that is away raises as it does.

        Any other refusal is logged and is no reason to leave a running terraform alone.
        Raises :class:`Superseded`: a state of a run that somebody gave up on must not come on top of newer ones.
        """
        workdir, began = self._work.workdir, time.monotonic()
        changed = inside.changed(workdir.root, workdir.state_path)
        if changed is None or changed == self._seen or began < self._next:
            return
        phase_id, worker = self._work.phase_id, self._work.worker
        lease.beat(phase_id, worker)
        try:
            keeping.keep_state(self._work, lambda: lease.hold(phase_id, worker))
        except StoreAway:
            # The log and a cancel have their turn for as long as a silent bucket took.
            self._next = 2 * time.monotonic() - began
            raise
        except (*AWAY, Superseded):
            raise
        except Exception as error:
            db.session.rollback()
            log.error("run %s: its state is refused for now: %s", self._work.run_id, type(error).__name__)
            self._next = time.monotonic() + REFUSED
        else:
            self._seen = changed

    def end(self, exit_code: int) -> None:
        """Store the last state, however long the database and a bucket take. Raises :class:`PhaseFailed`, with
        terraform's exit code, when it does not continue the newest one.
        """
        wait = StoreWait(self._work.phase_id, self._work.worker, _LAST)
        try:
            wait.through(lambda: keeping.keep_last_state(self._work))
        except StaleState as error:
            sentence = f"The {self._work.kind} has ended, and its state was refused: {error}"
            raise PhaseFailed("state_overtaken", sentence, exit_code) from None
