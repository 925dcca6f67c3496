"""A worker takes a phase: one that is queued, or one whose worker was lost. Of two workers one gets it.

Who is locked out meanwhile begins nothing: a phase that was queued by somebody who may not apply here any more ends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from redis.exceptions import RedisError
from sqlalchemy import and_, or_, select, update

from extensions import db
from models import Environment, Phase, PhaseStatus, Run
from policy import mfa
from policy.lifecycle import LEASE, Event
from services import archive_child, audit, clock, runs
from services.compare_and_set import won
from services.errors import Conflict
from services.execution import beginning, ending, lease, steps
from services.execution.follow import CredentialsLost
from services.execution.work import Work
from services.mfa import handoff
from services.mfa.credentials import TemporaryCredentials


def take(phase_id: int) -> Work | None:
    """Take the phase by compare-and-set; None when it is no longer queued, its gate has closed, who queued it may not
    apply here any more, or the environment is locked.
    """
    with archive_child.Reader() as reader:  # it loads meanwhile
        return _taken(phase_id, reader)


def _taken(phase_id: int, reader: archive_child.Reader) -> Work | None:
    # The run is locked: of two workers the second sees that the first took it, before it reaches for the credentials.
    phase = steps.of_run(phase_id, lock=True)
    if phase is None or phase.status is not PhaseStatus.QUEUED:
        db.session.rollback()
        return None
    run = phase.run
    # The environment, too: who locks it by hand at this moment comes before, or finds a phase that runs.
    db.session.refresh(run.environment, with_for_update={"of": Environment, "key_share": True})
    if beginning.barred(phase):
        ending.bar(phase)
        return None
    locked = run.environment.locked
    credentials: TemporaryCredentials | None = None
    if phase.authenticated_at is not None:
        credentials = _credentials(phase, handoff.look if locked else handoff.take)
        if credentials is None:
            return None
    elif run.level.demands(phase.kind):
        ending.close_gate(phase, Event.GATE_CLOSED, "The MFA level was raised before the phase began.")
        return None
    if locked:  # it stays queued: unlocking hands it to the workers again
        db.session.rollback()
        return None
    try:
        mark(phase)
    except Conflict:
        db.session.rollback()
        return None
    return beginning.prepare(phase_id, credentials, reader)


def mark(phase: Phase) -> None:
    """Write down that this worker has the phase from now on; commits. Raises :class:`Conflict`."""
    runs.transition(phase.run, Event.TAKE)
    mine = lease.taken()
    values = {"status": PhaseStatus.RUNNING, "started_at": clock.now(), "spool_offset": 0, **mine}
    db.session.execute(update(Phase).where(Phase.id == phase.id).values(**values))
    audit.record("run.take", None, run=phase.run, phase=phase.kind.value, worker=mine["worker"])
    db.session.commit()


def adopt(phase_id: int) -> Work | None:
    """Take the lapsed lease, or that of a process which is gone, by compare-and-set; None when another worker has it,
    or the phase has ended.
    """
    # The audit event names the run, and the run comes before its phase: who has it for update is waited for now.
    of_phase = select(Run.id).join(Phase, Phase.run_id == Run.id).where(Phase.id == phase_id)
    db.session.execute(of_phase.with_for_update(read=True, key_share=True, of=Run))
    phase = db.session.get(Phase, phase_id, populate_existing=True)
    last_sign, lost = (phase.heartbeat_at, phase.worker) if phase is not None else (None, None)
    lapsed = or_(Phase.heartbeat_at.is_(None), Phase.heartbeat_at < clock.now() - LEASE)
    if phase is not None and steps.abandoned(phase):
        lapsed = or_(lapsed, and_(Phase.worker == lost, Phase.heartbeat_at == last_sign))
    statement = update(Phase).where(Phase.id == phase_id, Phase.status == PhaseStatus.RUNNING, lapsed)
    mine = lease.taken()
    if phase is None or not won(statement.values(**mine)):
        db.session.commit()
        return None
    audit.record("run.adopt", None, run=phase.run, phase=phase.kind.value, worker=[lost, mine["worker"]])
    db.session.commit()
    db.session.refresh(phase)
    run = phase.run
    work = steps.resume(run, phase)
    if work is not None:
        work.last_sign = last_sign
        how = "was lost" if last_sign else "was stopped"
        work.say(f"The worker {how}; another one goes on from here.")
        return work
    if phase.spool_offset:
        # A database from before the end, put back: terraform had begun, and its directory went when it ended.
        ending.lose(phase_id, last_sign)
        return None
    if phase.authenticated_at is not None:
        raise CredentialsLost
    with archive_child.Reader() as reader:
        return beginning.prepare(phase_id, None, reader)


def _credentials(phase: Phase, fetch: Callable[[int], TemporaryCredentials | None]) -> TemporaryCredentials | None:
    """The sealed credentials; when they vanished or run short the run goes back to waiting, and None."""
    try:
        credentials = fetch(phase.id)
    except RedisError:
        why = "The temporary credentials could not be fetched: Redis does not answer."
        ending.close_gate(phase, Event.GATE_CLOSED, why)
        return None
    if credentials is not None and mfa.usable(credentials.expires_at, clock.now()):
        return credentials
    minutes = int(mfa.LEAST_REMAINING / timedelta(minutes=1))
    why = (
        "The temporary credentials are gone: they ended, or Redis lost them."
        if credentials is None
        else f"The temporary credentials had less than {minutes} minutes left when the {phase.kind} could start."
    )
    ending.close_gate(phase, Event.GATE_CLOSED, why)
    return None
