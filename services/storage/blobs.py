"""Configurations, plans and states: encrypted bytes in the database or in a bucket, so that no file is shared.

Where new ones go says BLOB_STORE; old ones are read where they lie. An object is stored before its row exists, and
removed only when it is certain that no row names it: after the commit that dropped the row, or after a rollback.
Where that is not certain (a killed process, a commit without an answer) it stays, and `flask blobs check` finds it.
"""

from __future__ import annotations

import hashlib
import logging
import uuid

from flask import current_app
from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session, SessionTransaction

from config import Config
from extensions import db
from models import Blob
from services import clock
from services.errors import LockstepError
from services.storage import object_store
from services.storage.object_store import ObjectGone, StoreAway
from services.storage.vault import Vault, VaultError

log = logging.getLogger(__name__)

#: What a session keeps in mind of its transaction: the objects that it stored and dropped, whether a commit was asked
#: for, and what may be removed now that it is done.
_STORED, _DROPPED, _COMMITTING, _DONE = (f"lockstep-{word}" for word in ("stored", "dropped", "committing", "done"))


class BlobUnreadable(LockstepError):
    """The stored bytes are missing, or cannot be decrypted, or are not what was stored."""


def put(kind: str, content: bytes) -> Blob:
    """Add a blob of ``kind`` ("configuration", "plan", "lock", "state") to the session; the caller commits.

    Raises :class:`StoreAway` for a bucket that is away; nothing was added then.
    """
    identifier = str(uuid.uuid4())
    sealed = _vault().encrypt(content, _context(identifier))
    store = _config().blob_store
    location = f"{store}/{kind}/{identifier}" if store else None
    if location is not None:
        object_store.put(location, sealed)
        db.session.info.setdefault(_STORED, []).append(location)
    blob = Blob(
        id=identifier,
        kind=kind,
        digest=hashlib.sha256(content).hexdigest(),
        size=len(content),
        created_at=clock.now(),
        location=location,
        data=None if location else sealed,
    )
    db.session.add(blob)
    return blob


def get(identifier: str, *, alone: bool = False) -> bytes:
    """The content, checked against its digest. Raises :class:`BlobUnreadable`, :class:`StoreAway`.

    With ``alone`` the caller has changed nothing, and what is open is committed before a bucket is asked: on SQLite
    everybody would wait for it.
    """
    blob = db.session.get(Blob, identifier)
    if blob is None:
        raise BlobUnreadable("It is no longer stored.")
    digest = blob.digest  # its row can be gone when the bucket has answered
    try:
        content = _vault().decrypt(_sealed(blob, alone), _context(identifier))
    except VaultError:
        raise BlobUnreadable("It cannot be decrypted with the keys in ENCRYPTION_KEYS.") from None
    finally:
        db.session.expire(blob, ["data"])
    if hashlib.sha256(content).hexdigest() != digest:
        raise BlobUnreadable("Its content is not what was stored.")
    return content


def drop(identifier: str) -> None:
    """Remove a blob; the caller commits. Its object goes after the commit."""
    location = db.session.scalar(select(Blob.location).where(Blob.id == identifier))
    db.session.execute(delete(Blob).where(Blob.id == identifier))
    if location is not None:
        db.session.info.setdefault(_DROPPED, []).append(location)


def _sealed(blob: Blob, alone: bool) -> bytes:
    if (location := blob.location) is not None:
        if alone:
            db.session.commit()
        try:
            return object_store.get(location)
        except ObjectGone:
            raise BlobUnreadable("It is no longer in the object store.") from None
    if blob.data is None:
        raise BlobUnreadable("It is no longer stored.")
    return blob.data


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    session.info[_COMMITTING] = True


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    session.info.pop(_COMMITTING, None)
    session.info.pop(_STORED, None)
    session.info[_DONE] = session.info.pop(_DROPPED, [])


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """Remove what nothing names any more, with no transaction open. A commit without an answer decides nothing."""
    if transaction.parent is not None:
        return
    unknown: bool = session.info.pop(_COMMITTING, False)
    stored: list[str] = session.info.pop(_STORED, [])
    session.info.pop(_DROPPED, None)
    done: list[str] = session.info.pop(_DONE, stored)
    for location in () if unknown else done:
        _remove(location)


def _remove(location: str) -> None:
    try:
        object_store.delete(location)
    except StoreAway as away:
        log.warning("%s stays until the next `flask blobs check --remove`: %s", location, away.reason)


def _context(identifier: str) -> str:
    return f"blob:{identifier}"


def _config() -> Config:
    config: Config = current_app.config["LOCKSTEP"]
    return config


def _vault() -> Vault:
    return _config().vault
