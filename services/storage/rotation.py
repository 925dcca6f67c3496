"""Reading everything the vault sealed, and sealing it anew with the newest key while Lockstep runs.

What is left to do shows in the envelopes themselves (their key ids), so a rotation that was killed goes on where it
was, and two at once do no harm. Each value is a transaction of its own that replaces exactly the envelope that was
read: somebody's edit in between stays, and is looked at again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flask import current_app
from sqlalchemy import select

from config import Config
from extensions import db
from models import Blob
from services import audit
from services.storage.sealed import PLACES, Column, Objects, reading
from services.storage.vault import Vault, VaultError, key_of

#: Rounds until everything has the newest key. More are needed only where another process seals with an older one.
MOST_ROUNDS = 5


@dataclass(frozen=True)
class Unreadable:
    """A value that no key opens: where it lies and why, nothing of it."""

    table: str
    row: str
    reason: str

    def __str__(self) -> str:
        return f"{self.table} {self.row}: {self.reason}"


@dataclass
class Report:
    """What a check read or a rotation did. ``keys`` counts the values of each key id, ``changed`` those sealed anew."""

    read: int = 0
    changed: int = 0
    older: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)


def check() -> Report:
    """Open every value. Raises :class:`StoreAway`; what cannot be read is in the report."""
    report, vault = Report(), _vault()
    for where, row_id in _everything():
        found = where.read(row_id)
        if found is None:
            continue
        envelope, context = found
        reason = _problem(vault, where, row_id, envelope, context)
        if reason:
            report.unreadable.append(Unreadable(f"{where.table}.{where.name}", str(row_id), reason))
            continue
        report.read += 1
        key = key_of(envelope)
        report.keys[key] = report.keys.get(key, 0) + 1
        report.older += key != vault.key_ids[0]
    return report


def rotate() -> Report:
    """Seal everything with the newest key, then open everything to see that it is so; audited, commits.

    ``older`` of the report counts values that still have another key: some process seals with an older one. Raises
    :class:`StoreAway`, after which it can be started again.
    """
    changed = 0
    for _ in range(MOST_ROUNDS):
        done, left = _round()
        changed += done
        if not left:
            break
    report = check()
    report.changed = changed
    counts = {"values": report.changed, "unreadable": len(report.unreadable)}
    audit.record("vault.rotate", None, key=_vault().key_ids[0], counts=counts)
    db.session.commit()
    return report


def _round() -> tuple[int, bool]:
    """How many values were sealed anew, and whether somebody else's change needs another look."""
    vault, done, again = _vault(), 0, False
    for where in PLACES:
        for row_id in where.ids(unlike=vault.newest_prefix):
            found = where.read(row_id)
            if found is None:
                continue
            envelope, context = found
            try:
                anew = vault.encrypt(vault.decrypt(envelope, context), context)
            except VaultError:
                continue  # told by the check
            won = where.replace(row_id, envelope, anew)
            done += won
            again |= not won
    return done, again or done > 0


def _everything() -> Iterator[tuple[Column | Objects, Any]]:
    for where in PLACES:
        for row_id in where.ids():
            yield where, row_id


def _problem(vault: Vault, where: Column | Objects, row_id: Any, envelope: bytes, context: str) -> str:
    if not envelope:
        return "The object is no longer in the object store."
    try:
        content = vault.decrypt(envelope, context)
    except VaultError as error:
        return str(error)
    if where.table != Blob.__tablename__:
        return ""
    with reading():
        digest = db.session.scalar(select(Blob.digest).where(Blob.id == row_id))
    if digest and hashlib.sha256(content).hexdigest() != digest:
        return "Its content is not what was stored."
    return ""


def _vault() -> Vault:
    config: Config = current_app.config["LOCKSTEP"]
    return config.vault
