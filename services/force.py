"""The two hard ends of a run, an admin's alone: forcing a terraform that does not stop, and giving up on its worker."""

from __future__ import annotations

from flask import current_app
from sqlalchemy import update

from config import Config
from extensions import db
from models import Membership, Phase, PhaseStatus, Run
from policy import lifecycle
from policy.lifecycle import GIVE_UP_AFTER, Event, RunStatus
from policy.mfa import PhaseKind
from policy.permissions import Permission
from services import audit, clock, runs
from services.access import require
from services.compare_and_set import won
from services.errors import Conflict
from services.execution import host, interruption
from services.storage import logs


def force(membership: Membership, run: Run) -> None:
    """Ask the worker for a second SIGINT and then SIGKILL; the state may lack what was in flight. Commits.

    Raises :class:`Forbidden` for anyone but admins, :class:`Conflict` before the cool-off of a cancel is over.
    """
    require(membership, Permission.FORCE, "Only admins of this environment can force a run to end.", run.environment)
    config: Config = current_app.config["LOCKSTEP"]
    if not lifecycle.can_force(run.status, run.cancel_requested_at, clock.now(), config.force_after):
        raise Conflict("This run cannot be forced to end now: cancel it first and give it time. Nothing was changed.")
    mine = (Run.id == run.id, Run.status == run.status, Run.force_requested_at.is_(None))
    if not won(
        update(Run).where(*mine).values(force_requested_at=clock.now(), force_requested_by_id=membership.user_id)
    ):
        raise Conflict("The run is being forced to end already, or has just ended. Nothing was changed.")
    audit.record("run.force", membership.user, run=run)
    db.session.commit()


def give_up(membership: Membership, run: Run) -> None:
    """Declare the worker of a running phase gone for good: the run is interrupted, the environment free. Commits.

    A worker that comes back finds its phase taken and touches nothing; its terraform, if it runs, is not ended by this.
    Raises :class:`Forbidden` for anyone but admins, :class:`Conflict` while the worker gives signs.
    """
    require(membership, Permission.FORCE, "Only admins of this environment can give up on a worker.", run.environment)
    phase = run.phase(PhaseKind.PLAN if run.status is RunStatus.PLANNING else PhaseKind.APPLY)
    now = clock.now()
    if not lifecycle.can_give_up(run.status, phase.heartbeat_at, now):
        raise Conflict("The worker gave a sign lately, or the run has ended. Nothing was changed.")
    facts = interruption.known(run, phase) | {"given_up_by": membership.user.name}
    said = interruption.sentence(phase.kind, facts)
    # With the lease in nobody's name, nothing that its worker may still try counts.
    ended = {"status": PhaseStatus.FAILED, "finished_at": now, "worker": host.nobody(phase.worker)}
    mine = (Phase.id == phase.id, Phase.status == PhaseStatus.RUNNING, Phase.heartbeat_at < now - GIVE_UP_AFTER)
    if not won(update(Phase).where(*mine).values(**ended)):
        raise Conflict(runs.MOVED_ON)
    values = {"interruption": facts, "error": said[:1000], "error_code": "given_up", "ended_by_id": membership.user_id}
    runs.transition(run, Event.VANISH, **values)
    logs.say(phase.id, said, tone="error")
    audit.record("run.give_up", membership.user, run=run, phase=phase.kind.value, worker=phase.worker)
    db.session.commit()
    runs.start_pending(run.environment_id)
