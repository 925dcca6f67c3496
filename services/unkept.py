"""A state that could not be stored, and so is nowhere but on the machine of the worker that ran the apply.

What ran next would work on the older one and create everything a second time. So the environment is locked, until
exactly that state is stored, by the worker or as an upload, or until a person says that runs may go on.

A run's ``unkept`` is a :class:`Left`, as an object.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import func, or_, select, update

from extensions import db
from models import Environment, Membership, Phase, Run, StateVersion
from policy.mfa import PhaseKind
from policy.permissions import Permission
from services import audit, runs
from services.access import require
from services.compare_and_set import won
from services.errors import Conflict
from services.execution import interruption


@dataclass(frozen=True)
class Left:
    """``sentence`` says where the state is, ``md5`` which it is (None where it cannot be stored here). ``error`` and
    ``code`` are what the run's page says of its end once the state is stored.
    """

    sentence: str
    md5: str | None
    error: str
    code: str


def hold(run: Run, left: Left) -> bool:
    """Lock the environment for the sake of this run's state, with an audit event; the caller commits.

    False, and nothing is kept, where it is locked for another run's.
    """
    free = or_(Environment.unkept_run_id.is_(None), Environment.unkept_run_id == run.id)
    if not won(update(Environment).where(Environment.id == run.environment_id, free).values(unkept_run_id=run.id)):
        return False
    run.unkept = asdict(left)
    audit.record("environment.lock", None, run=run, reason=left.sentence)
    return True


def settle(run_id: int, found: str | None = None) -> bool:
    """Where the state that a run left is stored by now, its page says so, and the lock comes off; commits. Whether so.

    ``found`` is the MD5 of what is in the working directory now, where a worker looked. Somebody's upload of the state
    is that run's from now on.
    """
    run = db.session.get_one(Run, run_id, populate_existing=True)
    version = _stored(run, Left(**run.unkept), found) if run.unkept else None
    if version is None:
        db.session.commit()
        return False
    db.session.refresh(run, with_for_update={"of": Run})
    left, environment_id = run.unkept, run.environment_id
    if left is None:  # settled at this moment
        db.session.commit()
        return False
    version.run_id = version.run_id or run.id
    run.error, run.error_code, run.unkept = left["error"], left["code"], None
    if run.interruption is not None:
        run.interruption = run.interruption | {"unkept": "", "serial": version.serial}
        run.error = interruption.sentence(PhaseKind.APPLY, run.interruption)
    unlocked = _unlock(environment_id, run_id)
    if unlocked:
        audit.record("environment.unlock", None, run=run)
    db.session.commit()
    if unlocked:
        runs.start_all(environment_id)
    return True


def release(membership: Membership, environment: Environment, seen: int) -> None:
    """Let runs go on without the state that run number ``seen`` left, and commit.

    Raises :class:`services.errors.Forbidden`, and :class:`Conflict` where that lock is gone or another run's.
    """
    require(membership, Permission.LOCK, "You cannot unlock this environment.", environment)
    mine = select(Run).where(Run.id == environment.unkept_run_id)
    run = db.session.scalar(mine.with_for_update(of=Run))  # before its environment, as everywhere
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


def _stored(run: Run, left: Left, found: str | None) -> StateVersion | None:
    """The version that is the missing state. One that could not be read is what was ``found`` and stored since the end:
    what was stored before may only lie beside where it was.
    """
    if left.md5 is not None:
        return stored_since(run.environment_id, left.md5, run.apply.id)
    version = stored_since(run.environment_id, found, run.apply.id) if found else None
    since_the_end = version is not None and run.finished_at is not None and version.created_at > run.finished_at
    return version if since_the_end else None


def stored_since(environment_id: int, md5: str, phase_id: int) -> StateVersion | None:
    """The newest version that is exactly this state, of those that are there since the phase began.

    The version that was current then counts: an apply may change nothing. Older ones do not: what somebody replaced
    since is what a destroy leaves again, byte by byte.
    """
    of_environment = StateVersion.environment_id == environment_id
    begun = select(Phase.started_at).where(Phase.id == phase_id).scalar_subquery()
    current = select(func.max(StateVersion.number)).where(of_environment, StateVersion.created_at <= begun)
    since = StateVersion.number >= func.coalesce(current.scalar_subquery(), 0)
    query = select(StateVersion).where(of_environment, StateVersion.md5 == md5, since)
    return db.session.scalar(query.order_by(StateVersion.number.desc()).limit(1))
