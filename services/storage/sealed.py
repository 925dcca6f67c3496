"""Every place where the vault's envelopes lie for long: columns of tables, and objects of the bucket.

Not among them is what lives for minutes: credentials in Redis, and what a worker leaves in a working directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, Row, Select, func, select, update

from extensions import db
from models import Blob, User, Variable
from models.base import Base
from services.compare_and_set import won
from services.storage import object_store
from services.storage.object_store import ObjectGone
from services.storage.sqlite import read_only
from services.storage.vault import KEY_PREFIX_BYTES, UNIQUE_BYTES, key_of, place

#: Rows that one look finds.
STEP = 100


@dataclass(frozen=True)
class Column:
    """A column of envelopes. ``context`` makes the associated data from a row of ``needs`` and the id."""

    model: type[Base]
    name: str
    needs: tuple[str, ...]
    context: Callable[[Row[Any]], str]

    @property
    def table(self) -> str:
        """The table's name."""
        return str(self.model.__tablename__)

    def ids(self, unlike: bytes = b"") -> Iterator[Any]:
        """The ids of all rows with a value, or of those whose envelope begins with something else than ``unlike``."""
        key, column = self._column("id"), self._column(self.name)
        last: Any = None
        while True:
            query = select(key).where(column.isnot(None)).order_by(key).limit(STEP)
            query = query.where(_start(column, KEY_PREFIX_BYTES) != unlike) if unlike else query
            with reading():
                found = list(db.session.scalars(query if last is None else query.where(key > last)))
            yield from found
            if len(found) < STEP:
                return
            last = found[-1]

    def read(self, row_id: Any) -> tuple[bytes, str] | None:
        """The envelope and its context; None when the row or its value is gone."""
        columns = [self._column(name) for name in ("id", self.name, *self.needs)]
        query: Select[Any] = select(*columns).where(self._column("id") == row_id)
        with reading():
            row = db.session.execute(query).one_or_none()
            return None if row is None or row[1] is None else (bytes(row[1]), self.context(row))

    def replace(self, row_id: Any, old: bytes, new: bytes) -> bool:
        """Put another envelope in the place of exactly this one; commits. False when it is no longer there."""
        column = self._column(self.name)
        same = (self._column("id") == row_id, _start(column, UNIQUE_BYTES) == old[:UNIQUE_BYTES])
        done = won(
            update(self.model).where(*same).values({self.name: new}).execution_options(synchronize_session=False)
        )
        db.session.commit()
        return done

    def _column(self, name: str) -> Any:
        return getattr(self.model, name)


@dataclass(frozen=True)
class Objects:
    """The blobs that lie in a bucket. Their content never changes, so an object is written over in its place."""

    table: str = "blob"
    name: str = "object"

    def ids(self, unlike: bytes = b"") -> Iterator[str]:
        """The ids of blobs in a bucket, as :meth:`Column.ids`; of an object only the first bytes are fetched."""
        with reading():
            found = list(db.session.execute(select(Blob.id, Blob.location).where(Blob.location.isnot(None))))
        for identifier, location in found:
            try:
                if not unlike or object_store.beginning(location or "", KEY_PREFIX_BYTES) != unlike:
                    yield identifier
            except ObjectGone:
                yield identifier

    def read(self, row_id: str) -> tuple[bytes, str] | None:
        """The envelope and its context; empty for an object that is not there, None for a row that is not."""
        if (location := self._location(row_id)) is None:
            return None
        try:
            return object_store.get(location), f"blob:{row_id}"
        except ObjectGone:
            return (b"", f"blob:{row_id}") if self._location(row_id) else None

    def replace(self, row_id: str, old: bytes, new: bytes) -> bool:
        """Write the object anew. One whose row is dropped meanwhile is removed again."""
        if (location := self._location(row_id)) is None:
            return False
        object_store.put(location, new)
        if self._location(row_id) is None:
            object_store.delete(location)
            return False
        return True

    def _location(self, row_id: str) -> str | None:
        with reading():
            return db.session.scalar(select(Blob.location).where(Blob.id == row_id))


PLACES: tuple[Column | Objects, ...] = (
    Column(
        Variable, "value", ("place", "category", "name"),
        lambda row: f"variable:{row.place}:{row.category.value}:{row.name}",
    ),
    Column(User, "totp_secret", (), lambda row: place("user_account", "totp_secret", row.id)),
    Column(Blob, "data", (), lambda row: f"blob:{row.id}"),
    Objects(),
)  # fmt: skip


@contextmanager
def reading() -> Iterator[None]:
    """A transaction that only reads, and ends: nobody who writes waits for it."""
    token = read_only.set(True)
    db.session.rollback()
    try:
        yield
    finally:
        db.session.rollback()
        read_only.reset(token)


def keys_in_use() -> set[str]:
    """The ids of the keys that sealed the newest of each: a look that costs little, for every start."""
    found: set[str] = set()
    newest = (
        select(Variable.value).order_by(Variable.updated_at.desc()),
        select(_start(Blob.data, KEY_PREFIX_BYTES)).where(Blob.data.isnot(None)).order_by(Blob.created_at.desc()),
        select(User.totp_secret).where(User.totp_secret.isnot(None)),
    )
    with reading():
        for query in newest:
            if envelope := db.session.scalar(query.limit(1)):
                found.add(key_of(bytes(envelope)))
    return found


def _start(column: Any, size: int) -> ColumnElement[bytes]:
    return func.substr(column, 1, size, type_=LargeBinary)
