"""The chain of audit events: each carries a keyed digest over itself and the digest of the one before.

The digest is HMAC-SHA256 (RFC 2104) with a key that is derived from the newest of ENCRYPTION_KEYS, in hex. Whoever can
write the database but has no key can neither change, insert, remove nor reorder events unseen. Cutting off the newest
events, or all of them, leaves a whole chain, so the head (:func:`head`) is to be noted elsewhere and compared.

Signed is what the committing session itself recorded, and nothing that is found in the table.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from extensions import db
from models import AuditEvent, Environment
from services import clock
from services.errors import Conflict
from services.storage.sqlite import read_only
from services.storage.vault import Vault

#: The chain begins in a database that was in use already.
BEGUN = "audit.chain_begun"
#: Events from before the chain got their places, by an operator's command.
TAKEN_OVER = "audit.taken_over"

_PURPOSE = "audit chain 1"
#: Of PostgreSQL's advisory locks: held from the moment when an event gets its place until its transaction ends.
_LOCK = 0x6C6F636B73746570  # "lockstep"


@dataclass(frozen=True)
class Head:
    """The newest place of the chain; 0 and "" of an empty one."""

    sequence: int
    digest: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest}"

    @classmethod
    def from_text(cls, text: str) -> Head:
        """From what ``str()`` gave. Raises ValueError with a sentence."""
        number, _, digest = text.strip().partition(":")
        if not re.fullmatch(r"[0-9]{1,18}", number, re.ASCII) or not re.fullmatch(r"([0-9a-f]{64})?", digest):
            raise ValueError("A head is a number, a colon and 64 hex digits, as `flask audit head` prints it.")
        return cls(int(number), digest)


def append(session: Session, events: Sequence[AuditEvent]) -> None:
    """Give events that are flushed but not committed their places at the end of the chain, and no other ones.

    Waits until no other transaction is doing so: on SQLite writers come one after another anyway. An empty chain in a
    database that was in use begins with an event that says so.
    """
    _lock(session)
    last = _head(session)
    _place(last, events if last.sequence else [*_beginning(session, events), *events])


@dataclass(frozen=True)
class Older:
    """Events that are older than the chain and in no place of it: how many, and when the first and the last were."""

    number: int
    first: datetime | None
    last: datetime | None


def older() -> Older:
    """What :func:`take_over` would give places."""
    parts = func.count(AuditEvent.id), func.min(AuditEvent.at), func.max(AuditEvent.at)
    row = db.session.execute(select(*parts).where(*_older(db.session()))).one()
    return Older(*row)


def take_over() -> int:
    """Sign the events of a version that had no chain as they stand, for an operator who says so, and commit.

    Only what is older than the chain, and only once: whatever else has no place was not recorded by Lockstep. An event
    tells which places were given so. Answers how many there were. Raises :class:`Conflict` when it was done before.
    """
    session = db.session()
    _lock(session)
    if session.scalar(select(AuditEvent.id).where(AuditEvent.action == TAKEN_OVER, AuditEvent.sequence.is_not(None))):
        session.rollback()
        raise Conflict(
            "Events from before the chain are taken over once, and that was done. Nothing was changed; "
            "`flask audit verify` shows what has no place."
        )
    found = list(session.scalars(select(AuditEvent).where(*_older(session)).order_by(AuditEvent.id)))
    if not found:
        session.rollback()
        return 0
    last = _head(session)
    begun = [] if last.sequence else _beginning(session, found)
    first = last.sequence + len(begun) + 1
    places = {"events": len(found), "places": [first, first + len(found) - 1]}
    _place(last, [*begun, *found, _own(session, TAKEN_OVER, clock.now(), places)])
    session.commit()
    return len(found)


def _older(session: Session) -> list[ColumnElement[bool]]:
    query = select(AuditEvent.at).where(AuditEvent.sequence.is_not(None)).order_by(AuditEvent.sequence).limit(1)
    begun = session.scalar(query)
    without: list[ColumnElement[bool]] = [AuditEvent.sequence.is_(None)]
    return without if begun is None else [*without, AuditEvent.at < begun]


def _lock(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _beginning(session: Session, events: Sequence[AuditEvent]) -> list[AuditEvent]:
    """The event that says that the chain begins late; none in a new database.

    There the first event is of an account or an organization: an environment cannot be there yet.
    """
    mine = [made.id for made in events]
    others = session.scalar(
        select(AuditEvent.id).where(AuditEvent.sequence.is_(None), AuditEvent.id.not_in(mine)).limit(1)
    )
    if others is None and session.scalar(select(Environment.id).limit(1)) is None:
        return []
    why = "The database was in use, and no event was in the chain: what was recorded before cannot be told from it."
    return [_own(session, BEGUN, events[0].at, {"why": why})]


def _own(session: Session, action: str, at: datetime, details: dict[str, Any]) -> AuditEvent:
    made = AuditEvent(at=at, actor_name="Lockstep", action=action, details=details, address="", request_id="")
    session.add(made)
    session.flush()
    return made


def _place(last: Head, events: Sequence[AuditEvent]) -> None:
    key = _vault().derived(_PURPOSE)[0]
    sequence, before = last.sequence, last.digest
    for made in events:
        sequence += 1
        made.sequence = sequence
        made.digest = before = _digest(key, made, before)


def head() -> Head:
    """The newest place of the chain, for a note outside of the database."""
    return _head(db.session())


def begun_late() -> str:
    """A sentence when the chain begins in a database that was in use already; "" otherwise."""
    first = db.session.scalar(select(AuditEvent).where(AuditEvent.sequence == 1))
    if first is None or first.action != BEGUN:
        return ""
    return (
        f"It begins with {_facts(first)}: the database was in use then, and what was recorded before cannot be told "
        "from the chain. Compare with a head that was noted earlier."
    )


def verify(noted: Head | None = None, former_keys: Vault | None = None) -> Iterator[str]:
    """A sentence for each thing that is wrong with the chain, in its order; none when it is whole.

    ``noted`` is a head of earlier: the chain must still have it. ``former_keys`` are keys that ENCRYPTION_KEYS no
    longer holds. Reads a snapshot; nobody waits for it.
    """
    db.session.rollback()
    reading = read_only.set(True)
    try:
        yield from _verify(noted, former_keys)
    finally:
        db.session.rollback()
        read_only.reset(reading)


def _verify(noted: Head | None, former_keys: Vault | None) -> Iterator[str]:
    keys = _vault().derived(_PURPOSE) + (former_keys.derived(_PURPOSE) if former_keys else ())
    found = Head(0, "")
    met = noted is None or noted.sequence == 0
    query = select(AuditEvent).where(AuditEvent.sequence.is_not(None)).order_by(AuditEvent.sequence)
    for made in db.session.scalars(query.execution_options(yield_per=500)):
        number = made.sequence or 0
        follows = number == found.sequence + 1
        if not follows:
            yield _missing(found.sequence + 1, number - 1)
        elif not any(_same(_digest(key, made, found.digest), made.digest) for key in keys):
            yield f"{_told(made)} is not what was recorded there: it, or the place of the one before it, was changed."
        if noted is not None and number == noted.sequence:
            met = True
            if not _same(made.digest, noted.digest):
                yield f"{_told(made)} is not the one that was noted: the chain was written anew before or at it."
        found = Head(number, made.digest)
        db.session.expunge(made)
    if not met and noted is not None:
        yield f"The chain ends with event {found.sequence}, but {noted.sequence} was noted: the newest were removed."
    for made in db.session.scalars(select(AuditEvent).where(AuditEvent.sequence.is_(None)).order_by(AuditEvent.id)):
        yield (
            "An event is in no place of the chain: Lockstep did not record it, or a version without a chain did "
            f"(then `flask audit take-over`): {_facts(made)}."
        )


def _missing(first: int, last: int) -> str:
    what = f"Event {first} is" if first == last else f"Events {first} to {last} are"
    return f"{what} missing; what event {last + 1} says can therefore not be checked."


def _told(made: AuditEvent) -> str:
    return f"Event {made.sequence} ({_facts(made)})"


def _facts(made: AuditEvent) -> str:
    return f"{made.action} by {made.actor_name}, {made.at:%Y-%m-%d %H:%M:%S} UTC"


def _head(session: Session) -> Head:
    query = select(AuditEvent.sequence, AuditEvent.digest).where(AuditEvent.sequence.is_not(None))
    row = session.execute(query.order_by(AuditEvent.sequence.desc()).limit(1)).one_or_none()
    return Head(row.sequence, row.digest) if row else Head(0, "")


def _same(one: str, other: str) -> bool:
    """As bytes: compare_digest takes no text that is not ASCII, which somebody may have written over a digest."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _digest(key: bytes, made: AuditEvent, before: str) -> str:
    return hmac.digest(key, canonical(made, before), "sha256").hex()


def canonical(made: AuditEvent, before: str) -> bytes:
    """What the digest is taken of: a JSON list in ASCII, the keys of objects sorted, no spaces.

    ``before`` is the digest of the event before, "" for the first. Times are UTC with microseconds.
    """
    parts = [
        before, made.sequence, f"{made.at:%Y-%m-%dT%H:%M:%S.%fZ}", made.actor_id, made.actor_name,
        made.organization_id, made.environment_id, made.run_id, made.action, made.details, made.address,
        made.request_id,
    ]  # fmt: skip
    return json.dumps(parts, sort_keys=True, separators=(",", ":")).encode("ascii")


def _vault() -> Vault:
    vault: Vault = current_app.config["LOCKSTEP"].vault
    return vault
