"""Whether this process has the keys of this installation: a known value, sealed when it first started.

It lies in the database, so that a second machine with keys of its own is told as soon as it starts, or, where the
database was away at that moment, before it first serves or works.
"""

from __future__ import annotations

from flask import current_app
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from config import Config
from extensions import db
from models import Blob
from services import audit, clock
from services.errors import LockstepError
from services.storage import sealed
from services.storage.sqlite import read_only
from services.storage.vault import Vault, VaultError, key_of

KIND = "check"
#: The id of the row, which is also what it says.
CHECK = "key-check"
#: Among the application's extensions: whether the start could not compare the keys.
OWED = "lockstep-keys-owed"


class WrongKeys(LockstepError):
    """None of the keys opens what is stored; ``str()`` is what to do about it."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"None of the keys in ENCRYPTION_KEYS is the one that this database was encrypted with (key id {missing}). "
            "Put that key back, behind the newest one, or restore encryption_keys from a backup. Nothing was changed. "
            "`flask vault check` says what cannot be read; `flask vault begin-anew` is for a key that is lost."
        )


def prove() -> None:
    """Compare the keys with the known value; the first start makes it. For every start, before anything is served.

    Raises :class:`WrongKeys`. A database that is away or has no tables yet says nothing, and :func:`settle` asks again.
    """
    current_app.extensions[OWED] = True
    try:
        _compare()
    except SQLAlchemyError:
        db.session.rollback()


def settle() -> None:
    """Before a request is served or a phase taken: the comparison that the start could not make. Free once it is made.

    Raises :class:`WrongKeys`, each time, and what the driver raises while the database is away. An installation
    without tables has nothing yet that other keys could spoil.
    """
    if not is_owed():
        return
    reading = read_only.get()
    read_only.set(False)  # the first one of all writes, perhaps in a request that only reads
    try:
        _compare()
    finally:
        read_only.set(reading)


def is_owed() -> bool:
    """Whether the start could not compare the keys, and nothing did since."""
    return bool(current_app.extensions.get(OWED))


def _compare() -> None:
    with sealed.reading():
        if not inspect(db.session.connection()).has_table(Blob.__tablename__):
            return
        known = db.session.get(Blob, CHECK)
        envelope = known.data if known is not None else None
    if envelope is None:
        envelope = _first()
    try:
        _vault().decrypt(envelope, f"blob:{CHECK}")
    except VaultError:
        raise WrongKeys(key_of(envelope)) from None
    current_app.extensions[OWED] = False


def begin_anew() -> None:
    """Take the present keys for the installation's own from now on; commits, audited.

    What other keys sealed stays as it is: it is read again should its key come back.
    """
    known = db.session.get(Blob, CHECK)
    if known is not None:
        db.session.delete(known)
        db.session.flush()
    db.session.add(_new())
    audit.record("vault.begin_anew", None, key=_vault().key_ids[0])
    db.session.commit()


def _first() -> bytes:
    """The known value of a database that has none yet: new, or of an earlier version. Commits."""
    in_use = sealed.keys_in_use()
    if in_use and not in_use & set(_vault().key_ids):
        raise WrongKeys(sorted(in_use)[0])
    row = _new()
    envelope = row.data or b""
    try:
        db.session.add(row)
        db.session.commit()
    except IntegrityError:  # another process was quicker; its keys count
        db.session.rollback()
        envelope = db.session.get_one(Blob, CHECK).data or b""
        db.session.rollback()
    return envelope


def _new() -> Blob:
    data = _vault().encrypt(CHECK.encode(), f"blob:{CHECK}")
    return Blob(id=CHECK, kind=KIND, digest="", size=0, created_at=clock.now(), data=data)


def _vault() -> Vault:
    config: Config = current_app.config["LOCKSTEP"]
    return config.vault
