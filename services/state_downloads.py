"""Handing a state to a person: a state can hold secrets, so each download is an audit event."""

from __future__ import annotations

from extensions import db
from models import Environment, Membership, StateVersion
from policy.permissions import Permission
from services import audit, states
from services.access import require
from services.storage.sqlite import read_only


def download(membership: Membership, environment: Environment, number: int) -> tuple[StateVersion, bytes]:
    """A version and its content; records who took it, and commits.

    Raises :class:`services.errors.Forbidden`, :class:`services.errors.NotFound`.
    """
    require(membership, Permission.READ, "You cannot read the states of this environment.")
    # A GET that writes: what was read so far ends here, so that SQLite begins a transaction that may write.
    db.session.rollback()
    read_only.set(False)
    version, content = states.content(environment, number)
    audit.record(
        "state.download",
        membership.user,
        environment=environment,
        number=version.number,
        serial=version.serial,
    )
    db.session.commit()
    return version, content
