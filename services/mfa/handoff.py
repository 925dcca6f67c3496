"""Temporary credentials on their way from the gate to the worker: sealed, bound to the phase, read once.

They lie in Redis, encrypted, for as long as the session lives and for an hour at most. Whoever loses them (Redis
restarted, the worker killed after taking them) loses only that session: the run goes back to waiting and says why.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from flask import current_app
from redis.exceptions import RedisError

from services import clock
from services.errors import Conflict
from services.mfa.credentials import TemporaryCredentials
from services.queue import connection
from services.storage.vault import Vault, VaultError

#: A phase that no worker took for this long asks for a new code, however long the session would last.
LONGEST = timedelta(hours=1)


def seal(phase_id: int, credentials: TemporaryCredentials) -> None:
    """Put the credentials where the phase's worker finds them.

    Raises :class:`Conflict` where others lie there already, and redis's errors when Redis is away.
    """
    seconds = int(min(credentials.expires_at - clock.now(), LONGEST).total_seconds())
    if seconds <= 0:
        return
    sealed = _vault().encrypt(credentials.to_json(), _context(phase_id))
    if not connection().set(_key(phase_id), sealed, ex=seconds, nx=True):
        raise Conflict("This phase has credentials already.")


def take(phase_id: int) -> TemporaryCredentials | None:
    """The credentials, once: they are deleted in the same step. None when they vanished or cannot be read."""
    return _opened(phase_id, connection().getdel(_key(phase_id)))


def look(phase_id: int) -> TemporaryCredentials | None:
    """What :func:`take` would answer now; they stay where they are."""
    return _opened(phase_id, connection().get(_key(phase_id)))


def _opened(phase_id: int, sealed: object) -> TemporaryCredentials | None:
    if not isinstance(sealed, bytes):
        return None
    try:
        return TemporaryCredentials.from_json(_vault().decrypt(sealed, _context(phase_id)))
    except VaultError:
        return None


def drop(phase_id: int) -> None:
    """Remove credentials that nobody will take: the run was canceled, or was never queued.

    When Redis is away they stay for an hour at most, sealed and for a phase that no worker takes any more.
    """
    with contextlib.suppress(RedisError):
        connection().delete(_key(phase_id))


def _key(phase_id: int) -> str:
    return f"lockstep:handoff:{phase_id}"


def _context(phase_id: int) -> str:
    return f"handoff:phase:{phase_id}"


def _vault() -> Vault:
    vault: Vault = current_app.config["LOCKSTEP"].vault
    return vault
