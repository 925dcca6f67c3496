"""Configurations, plans and states: encrypted bytes in the database, so that no shared file system is needed."""

from __future__ import annotations

import hashlib
import uuid

from flask import current_app
from sqlalchemy import delete

from extensions import db
from models import Blob
from services import clock
from services.errors import LockstepError
from services.storage.vault import Vault, VaultError


class BlobUnreadable(LockstepError):
    """The stored bytes are missing, or cannot be decrypted, or are not what was stored."""


def put(kind: str, content: bytes) -> Blob:
    """Add a blob of ``kind`` ("configuration", "plan", "lock", "state") to the session; the caller commits."""
    identifier = str(uuid.uuid4())
    blob = Blob(
        id=identifier,
        kind=kind,
        digest=hashlib.sha256(content).hexdigest(),
        size=len(content),
        created_at=clock.now(),
        data=_vault().encrypt(content, _context(identifier)),
    )
    db.session.add(blob)
    return blob


def get(identifier: str) -> bytes:
    """The content, checked against its digest. Raises :class:`BlobUnreadable`."""
    blob = db.session.get(Blob, identifier)
    if blob is None:
        raise BlobUnreadable("It is no longer stored.")
    if blob.data is None:
        raise BlobUnreadable("It is no longer stored.")
    try:
        content = _vault().decrypt(blob.data, _context(identifier))
    except VaultError:
        raise BlobUnreadable("It cannot be decrypted with the keys in ENCRYPTION_KEYS.") from None
    finally:
        db.session.expire(blob, ["data"])
    if hashlib.sha256(content).hexdigest() != blob.digest:
        raise BlobUnreadable("Its content is not what was stored.")
    return content


def drop(identifier: str) -> None:
    """Remove a blob; the caller commits."""
    db.session.execute(delete(Blob).where(Blob.id == identifier))


def _context(identifier: str) -> str:
    return f"blob:{identifier}"


def _vault() -> Vault:
    vault: Vault = current_app.config["LOCKSTEP"].vault
    return vault
