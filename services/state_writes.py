"""States that people write: from a terminal, as an upload, as a rollback. Each is a new version and an audit event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extensions import db
from models import Environment, Membership, StateSource, StateVersion
from policy import state_file
from policy.permissions import Permission
from policy.state_file import NotAState
from services import audit, holds, state_locks, states, unkept
from services.access import hold_membership, require
from services.errors import Conflict, Invalid
from services.states import StaleState
from services.storage import blobs

MOVED_ON = "Another state was saved just now. Nothing was changed; look at the present ones and try again."


def from_terminal(
    membership: Membership, environment: Environment, content: bytes, sent_lock: str | None, token: str
) -> StateVersion | None:
    """Keep what a terminal's terraform saves, and commit. None when it is the current state already.

    Raises :class:`services.errors.Forbidden`, :class:`NotAState`, :class:`state_locks.Locked`, :class:`StaleState`.
    """
    hold_still = _allowed(
        membership, environment, Permission.WRITE_STATE, "You cannot write the state of this environment."
    )
    prepared = states.prepare(environment.id, content)
    hold_still()
    state_locks.require_theirs_or_free(environment, membership.user, sent_lock)
    version = states.save(environment.id, prepared, source=StateSource.TERMINAL, user=membership.user)
    _commit(membership, environment, version, token=token)
    return version


def upload(
    membership: Membership, environment: Environment, content: bytes, *, force: bool, typed_name: str
) -> StateVersion:
    """Make a state file the current state, and commit. With ``force`` also where serial or lineage do not continue.

    Raises :class:`services.errors.Forbidden`, :class:`Invalid` for field "state" or "name", :class:`Conflict`.
    """
    hold_still = _allowed(
        membership, environment, Permission.REPLACE_STATE, "Only admins of this environment can upload a state."
    )
    if force and typed_name.strip() != environment.name:
        raise Invalid("name", f"Type {environment.name} to replace the state. Nothing was changed.")
    try:
        prepared = states.prepare(environment.id, content)
    except NotAState as error:
        raise Invalid("state", f"{error} Nothing was changed.") from None
    hold_still()
    db.session.refresh(environment)
    holds.refuse_when_hindered(environment, membership.user, upload=True)
    try:
        version = states.save(environment.id, prepared, source=StateSource.UPLOAD, user=membership.user, force=force)
    except StaleState as error:
        db.session.rollback()
        raise Invalid("state", f"{error} Nothing was changed.") from None
    missing = environment.unkept_run_id
    if version is None:
        db.session.rollback()
        current = states.latest(environment.id)
        if missing is not None and current is not None and unkept.settle(missing):
            return current
        raise Invalid("state", "That is the current state already. Nothing was changed.")
    _commit(membership, environment, version, forced=force)
    if missing is not None:
        unkept.settle(missing)
    return version


def roll_back(
    membership: Membership, environment: Environment, number: int, *, typed_serial: str, seen: int
) -> StateVersion:
    """Make the content of an older version the current state, as a new one with the next serial, and commit.

    ``seen`` is the number of the version that was current when the person looked. Raises
    :class:`services.errors.Forbidden`, :class:`services.errors.NotFound`, :class:`Invalid` for field "serial",
    :class:`Conflict`.
    """
    hold_still = _allowed(
        membership, environment, Permission.REPLACE_STATE, "Only admins of this environment can roll a state back."
    )
    old, current = states.version(environment, number), states.latest(environment.id)
    if current is None or current.number != seen or old.number == current.number:
        raise Conflict(MOVED_ON)
    if typed_serial.strip() != str(old.serial):
        raise Invalid("serial", f"Type {old.serial} to roll back to it. Nothing was changed.")
    holds.refuse_when_hindered(environment, membership.user)
    serial, lineage = current.serial + 1, states.lineage_of(current)
    content = blobs.get(old.blob_id, alone=True)
    db.session.rollback()
    try:
        prepared = states.prepare(environment.id, state_file.renumbered(content, serial, lineage))
    except NotAState as error:
        raise Invalid("serial", f"{error} Nothing was changed.") from None
    hold_still()
    db.session.refresh(environment)
    holds.refuse_when_hindered(environment, membership.user)
    newest = states.latest(environment.id)
    if newest is None or newest.number != seen:
        raise Conflict(MOVED_ON)
    user = membership.user
    version = states.save(
        environment.id, prepared, source=StateSource.ROLLBACK, user=user, restored_number=number
    )  # fmt: skip
    if version is None:
        raise Conflict(MOVED_ON)
    _commit(membership, environment, version, restored=old.serial)
    return version


def _allowed(
    membership: Membership, environment: Environment, permission: Permission, sentence: str
) -> Callable[[], None]:
    """Ask whether the person may write. What is answered locks the environment's row and asks once more, for when a
    bucket has taken its time.

    Both raise :class:`Forbidden`, and :class:`NotFound` for who may not know of it.
    """
    require(membership, permission, sentence, environment)
    organization_id, user_id, environment_id = membership.organization_id, membership.user_id, environment.id

    def _still() -> None:
        states.hold_still(environment_id)
        hold_membership(organization_id, user_id)
        require(membership, permission, sentence, environment)

    return _still


def _commit(membership: Membership, environment: Environment, version: StateVersion | None, **details: Any) -> None:
    if version is not None:
        facts = {"number": version.number, "serial": version.serial, "md5": version.md5, **details}
        audit.record(f"state.{version.source.value}", membership.user, environment=environment, **facts)
    db.session.commit()
