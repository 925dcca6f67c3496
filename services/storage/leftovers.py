"""Where rows and objects of the blob store do not match: leftovers of killed processes, and missing objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from flask import current_app
from sqlalchemy import select

from extensions import db
from models import Blob
from services import clock
from services.storage import object_store
from services.storage.object_store import ObjectGone

#: An object is stored a moment before its row. One that has none after this long was left by a killed process.
OLD = timedelta(days=1)

_OURS = re.compile(r"(configuration|plan|lock|state|probe)/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Check:
    """Addresses: of objects that no row names, older than a day; and of rows whose object is gone."""

    leftovers: list[str]
    missing: list[str]


def check() -> Check | None:
    """Compare the bucket with the rows; None where blobs go into the database.

    Only objects below BLOB_STORE that look like Lockstep's own are seen. Raises :class:`StoreAway`.
    """
    store = current_app.config["LOCKSTEP"].blob_store
    if store is None:
        return None
    before = clock.now() - OLD
    # The rows first: an object that is stored meanwhile is young, a row that is dropped meanwhile is looked up again.
    rows = set(db.session.scalars(select(Blob.location).where(Blob.location.startswith(f"{store}/", autoescape=True))))
    db.session.commit()
    listed = {found.address: found.stored_at for found in object_store.listing(f"{store}/")}
    ours = {address for address in listed if _OURS.fullmatch(address.removeprefix(f"{store}/"))}
    return Check(
        leftovers=sorted(each for each in ours - rows if listed[each] < before and not _named(each)),
        missing=sorted(each for each in rows - set(listed) if each and _named(each) and _gone(each)),
    )


def remove(addresses: list[str]) -> None:
    """Remove objects. Raises :class:`StoreAway` at the first that cannot be."""
    for address in addresses:
        object_store.delete(address)


def _named(address: str) -> bool:
    found = db.session.scalar(select(Blob.id).where(Blob.location == address))
    db.session.commit()
    return found is not None


def _gone(address: str) -> bool:
    try:
        object_store.get(address)
    except ObjectGone:
        return True
    return False
