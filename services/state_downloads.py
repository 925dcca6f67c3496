"""Handing a state to a person: a state can hold secrets, so each download is an audit event."""

from __future__ import annotations

from typing import Any

from extensions import db
from models import Environment, Membership, StateVersion
from policy.permissions import Permission
from services import audit, states
from services.access import require
from services.storage.sqlite import read_only

_HOLDS_SECRETS = "A state holds secrets: downloading one needs write access to this environment."


def download(membership: Membership, environment: Environment, number: int) -> tuple[int, bytes]:
    """Serial and content of a version; records who took it, and commits.

    Raises :class:`services.errors.Forbidden` for who may only read, :class:`services.errors.NotFound`.
    """
    require(membership, Permission.READ_STATE, _HOLDS_SECRETS, environment)
    return _hand_out(membership, environment, states.version(environment, number))


def current(membership: Membership, environment: Environment, token: str) -> tuple[int, bytes] | None:
    """The same of the current version, for a terminal that came with the token of this name; None when there is none.

    Raises as above.
    """
    require(membership, Permission.READ_STATE, _HOLDS_SECRETS, environment)
    version = states.latest(environment.id)
    return None if version is None else _hand_out(membership, environment, version, token=token)


def _hand_out(
    membership: Membership, environment: Environment, version: StateVersion, **details: Any
) -> tuple[int, bytes]:
    number = version.number
    serial, content = states.read(version)
    # A GET that writes: what was read so far ends here, so that SQLite begins a transaction that may write.
    db.session.rollback()
    read_only.set(False)
    facts = {"number": number, "serial": serial, **details}
    audit.record("state.download", membership.user, environment=environment, **facts)
    db.session.commit()
    return serial, content
