"""State versions: kept, listed, read. Everything that writes one comes through here, under the environment's lock.

A version and the checks that let it in are one transaction: of two writers the second sees what the first stored. What
takes a bucket is done before that transaction: on SQLite everybody else who writes waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import func, select

from extensions import db
from models import Blob, Environment, Run, StateSource, StateVersion, User
from policy import state_file
from policy.state_file import Facts, NotAState
from services import clock
from services.errors import LockstepError, NotFound
from services.storage import blobs
from services.storage.blobs import BlobUnreadable
from services.storage.object_store import StoreAway


class StaleState(LockstepError):
    """A state does not continue the environment's current one: another lineage, an older serial, or the same serial
    with another content. Nothing was stored.
    """


@dataclass(frozen=True)
class _Compared:
    """How a state compares with what was current before the lock was taken.

    ``current`` is the blob of that; ``same``: it has the serial of that and says the same; ``changes`` are the counts
    against the version before, None where one of the two cannot be looked into.
    """

    current: str | None
    same: bool
    changes: dict[str, int] | None


@dataclass(frozen=True)
class Prepared:
    """A state that was read, compared and put where blobs lie, before any lock was taken.

    Its row is in the session: a rollback removes what was stored.
    """

    facts: Facts
    blob: Blob
    compared: _Compared


def prepare(environment_id: int, content: bytes) -> Prepared:
    """Read and store a state that a person hands in; that takes seconds, so no transaction is open meanwhile.

    What the caller changed before is rolled back. Raises :class:`NotAState`.
    """
    db.session.rollback()
    digests = state_file.digests(state_file.parse(content))
    found = state_file.facts(content)
    if found is None:
        raise NotAState("That is not a state file.")
    current, before = latest(environment_id), None
    if current is not None:
        before = current.blob_id
    compared = _compare(current, before, content, found, digests)
    return Prepared(found, blobs.put("state", content), compared)


def store(
    run: Run,
    content: bytes,
    *,
    first: Callable[[], object] = lambda: None,
    beside: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> StateVersion | None:
    """Keep ``content`` as the run's state; the caller commits. None when it is what is kept already.

    What the caller changed before is committed. ``first`` is called in the transaction that writes, before its locks;
    ``beside`` is entered for as long as a bucket may keep this waiting. One run makes one version: while its apply goes
    on, the version is replaced as terraform saves after each resource (its local backend keeps one serial meanwhile).
    Raises :class:`StaleState` when it does not continue the current version.
    """
    found, run_id, environment_id = state_file.facts(content), run.id, run.environment_id
    db.session.commit()
    if found is None:
        return None
    digests = _digests_of(content)
    while True:
        current = latest(environment_id)
        if _is_kept(current, found):
            return None
        before = _before(current, run_id)
        with beside():
            compared = _compare(current, before, content, found, digests)
            prepared = Prepared(found, blobs.put("state", content), compared)
        first()
        hold_still(environment_id)
        current = latest(environment_id)
        if (current.blob_id if current is not None else None) == compared.current:
            break
        db.session.rollback()  # somebody was faster
    mine = current if current is not None and current.run_id == run_id else None
    if current is not None:
        _require_continues(current, prepared, own=mine is not None)
    version = mine or _new(environment_id)
    version.run_id, version.source = run_id, StateSource.RUN
    return _write(version, prepared)


def save(
    environment_id: int,
    prepared: Prepared,
    *,
    source: StateSource,
    user: User,
    force: bool = False,
    restored_number: int | None = None,
) -> StateVersion | None:
    """Keep a state that a person wrote as a new version; the caller commits. None when it is the current one already.

    The caller has the environment held still (:func:`hold_still`) and has checked who may do this. Raises
    :class:`StaleState` when it does not continue the current version, unless ``force``.
    """
    current = latest(environment_id)
    if _is_kept(current, prepared.facts):
        blobs.drop(prepared.blob.id)
        return None
    if current is not None and not force:
        _require_continues(current, prepared, own=False)
    version = _new(environment_id)
    version.source, version.created_by_id, version.restored_number = source, user.id, restored_number
    return _write(version, prepared)


def hold_still(environment_id: int) -> None:
    """Lock the environment's row: what is checked from here on still holds when the caller commits."""
    environment = select(Environment.id).where(Environment.id == environment_id)
    db.session.execute(environment.with_for_update(key_share=True))


def latest(environment_id: int) -> StateVersion | None:
    """The current version."""
    query = select(StateVersion).where(StateVersion.environment_id == environment_id)
    return db.session.scalar(query.order_by(StateVersion.number.desc()).limit(1))


def versions(environment: Environment, before: int | None = None, limit: int | None = None) -> list[StateVersion]:
    """The versions, newest first; ``before`` is a version's number to page on from."""
    query = select(StateVersion).where(StateVersion.environment_id == environment.id)
    if before is not None:
        query = query.where(StateVersion.number < before)
    return list(db.session.scalars(query.order_by(StateVersion.number.desc()).limit(limit)))


def version(environment: Environment, number: int) -> StateVersion:
    """A version. Raises :class:`NotFound`."""
    query = select(StateVersion).where(StateVersion.environment_id == environment.id, StateVersion.number == number)
    found = db.session.scalar(query)
    if found is None:
        raise NotFound("No such state.")
    return found


def content(environment: Environment, number: int) -> tuple[StateVersion, bytes]:
    """A version and its content as terraform wrote it. Raises :class:`NotFound`, :class:`blobs.BlobUnreadable`."""
    found = version(environment, number)
    return found, blobs.get(found.blob_id)


def read(version: StateVersion) -> tuple[int, bytes]:
    """Serial and content of a version, as they belong together; the caller has changed nothing.

    An apply replaces its version as it saves: what this one named can be gone when it is asked for, and then it names
    something else. Raises :class:`blobs.BlobUnreadable`, :class:`StoreAway`.
    """
    while True:
        serial, blob_id = version.serial, version.blob_id
        try:
            return serial, blobs.get(blob_id, alone=True)
        except BlobUnreadable:
            db.session.rollback()
            if version.blob_id == blob_id:
                raise


def lineage_of(current: StateVersion) -> str:
    """The lineage itself; the caller has changed nothing.

    Raises :class:`blobs.BlobUnreadable` where only its digest is known without the state.
    """
    if not state_file.is_digest(current.lineage):
        return current.lineage
    lineage = current.lineage
    found = state_file.facts(blobs.get(current.blob_id, alone=True))
    return lineage if found is None else found.lineage


def _is_kept(current: StateVersion | None, found: Facts) -> bool:
    return current is not None and current.md5 == found.md5 and current.serial == found.serial


def _require_continues(current: StateVersion, prepared: Prepared, *, own: bool) -> None:
    """``own``: the current version is of the same run, which may replace it."""
    found, compared = prepared.facts, prepared.compared
    if not state_file.same_lineage(current.lineage, found.lineage):
        raise StaleState("The state has another lineage than the environment's current one.")
    if found.serial < current.serial:
        raise StaleState(f"The state has serial {found.serial}, older than the current {current.serial}.")
    same = compared.same and compared.current == current.blob_id
    if found.serial == current.serial and not own and not same:
        raise StaleState(f"The state has the current serial {current.serial}, but another content.")


def _before(current: StateVersion | None, run_id: int) -> str | None:
    """The blob of the version that the run's own comes after."""
    if current is None or current.run_id != run_id:
        return None if current is None else current.blob_id
    query = select(StateVersion.blob_id).where(
        StateVersion.environment_id == current.environment_id, StateVersion.number < current.number
    )
    return db.session.scalar(query.order_by(StateVersion.number.desc()).limit(1))


def _compare(
    current: StateVersion | None,
    before: str | None,
    content: bytes,
    found: Facts,
    digests: Mapping[str, bytes] | None,
) -> _Compared:
    """Look into the versions that count; commits, so that nobody waits for a bucket with this."""
    here, same = None, False
    if current is not None:
        here, same = current.blob_id, current.serial == found.serial and current.blob_id == before
    db.session.commit()
    same = here is not None and same and _says_the_same(here, content)
    changes = _changes(before, digests)
    db.session.commit()
    return _Compared(here, same, changes)


def _says_the_same(current: str, content: bytes) -> bool:
    """A newer terraform that changes nothing writes its version into the state and keeps the serial."""
    try:
        there = blobs.get(current, alone=True)
        return state_file.same(state_file.parse(there), state_file.parse(content))
    except (NotAState, BlobUnreadable):
        return False


def _new(environment_id: int) -> StateVersion:
    query = select(func.max(StateVersion.number)).where(StateVersion.environment_id == environment_id)
    return StateVersion(environment_id=environment_id, number=(db.session.scalar(query) or 0) + 1)


def _write(version: StateVersion, prepared: Prepared) -> StateVersion:
    found, replaced = prepared.facts, version.blob_id
    values: dict[str, Any] = {
        "serial": found.serial,
        "lineage": state_file.shown_lineage(found.lineage),
        "md5": found.md5,
        "size": prepared.blob.size,
        "resources": found.resources,
        "terraform_version": found.terraform_version,
        "blob_id": prepared.blob.id,
        "changes": prepared.compared.changes,
        "created_at": clock.now(),
    }
    for name, value in values.items():
        setattr(version, name, value)
    db.session.add(version)
    db.session.flush()
    if replaced is not None:
        blobs.drop(replaced)
    return version


def _changes(before: str | None, digests: Mapping[str, bytes] | None) -> dict[str, int] | None:
    """The counts against the version before; None where one of the two cannot be looked into: saving goes first."""
    if digests is None:
        return None
    try:
        known = _digests_of_blob(before) if before is not None else {}
    except (BlobUnreadable, StoreAway):
        return None
    return None if known is None else state_file.counts(known, digests)


def _digests_of(content: bytes) -> Mapping[str, bytes] | None:
    try:
        return state_file.digests(state_file.parse(content))
    except NotAState:
        return None


@lru_cache(maxsize=4)
def _digests_of_blob(blob_id: str) -> Mapping[str, bytes] | None:
    """Kept for a while: an apply saves its state after each resource, and the version before stays the same."""
    return _digests_of(blobs.get(blob_id, alone=True))
