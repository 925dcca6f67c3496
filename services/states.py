"""State versions: picked up from the working directory, kept, listed, read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import func, select

from extensions import db
from models import Environment, Run, StateVersion
from services import clock
from services.errors import LockstepError, NotFound
from services.storage import blobs


class StaleState(LockstepError):
    """A state does not continue the environment's current one: another lineage, or an older serial."""


@dataclass(frozen=True)
class StateFacts:
    """What terraform writes into a state (format 4): its place in the history and what it holds."""

    serial: int
    lineage: str
    terraform_version: str
    resources: int
    md5: str


def facts(content: bytes) -> StateFacts | None:
    """The facts of a state file, None while it is empty or half written."""
    try:
        state = json.loads(content)
        resources = sum(
            len(resource.get("instances", ()))
            for resource in state.get("resources") or ()
            if resource.get("mode") == "managed"
        )
        return StateFacts(
            serial=int(state["serial"]),
            lineage=str(state["lineage"])[:100],
            terraform_version=str(state.get("terraform_version", ""))[:40],
            resources=resources,
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def store(run: Run, content: bytes) -> StateVersion | None:
    """Keep ``content`` as the run's state; the caller commits. None when it is what is kept already.

    One run makes one version: while its apply goes on, the version is replaced as terraform saves after each
    resource. Raises :class:`StaleState` when it does not continue the current version.
    """
    found = facts(content)
    if found is None:
        return None
    # One at a time for each environment: what is checked below still holds when the caller commits.
    environment = select(Environment.id).where(Environment.id == run.environment_id)
    db.session.execute(environment.with_for_update(key_share=True))
    current = latest(run.environment_id)
    if current is not None and current.md5 == found.md5 and current.serial == found.serial:
        return None
    if current is not None and current.lineage != found.lineage:
        raise StaleState("The state has another lineage than the environment's current one.")
    if current is not None and found.serial < current.serial:
        raise StaleState(f"The state has serial {found.serial}, older than the current {current.serial}.")
    blob = blobs.put("state", content)
    mine = current if current is not None and current.run_id == run.id else None
    replaced = mine.blob_id if mine else None
    version = mine or StateVersion(environment_id=run.environment_id, number=_next(run.environment_id), run_id=run.id)
    version.serial, version.lineage, version.md5 = found.serial, found.lineage, found.md5
    version.size, version.resources, version.terraform_version = (
        len(content),
        found.resources,
        found.terraform_version,
    )
    version.blob_id, version.created_at = blob.id, clock.now()
    db.session.add(version)
    db.session.flush()
    if replaced is not None:
        blobs.drop(replaced)
    return version


def latest(environment_id: int) -> StateVersion | None:
    """The current version."""
    query = select(StateVersion).where(StateVersion.environment_id == environment_id)
    return db.session.scalar(query.order_by(StateVersion.number.desc()).limit(1))


def versions(environment: Environment) -> list[StateVersion]:
    """Every version, newest first."""
    query = select(StateVersion).where(StateVersion.environment_id == environment.id)
    return list(db.session.scalars(query.order_by(StateVersion.number.desc())))


def content(environment: Environment, number: int) -> tuple[StateVersion, bytes]:
    """A version and its content as terraform wrote it. Raises :class:`NotFound`, :class:`blobs.BlobUnreadable`."""
    query = select(StateVersion).where(StateVersion.environment_id == environment.id, StateVersion.number == number)
    version = db.session.scalar(query)
    if version is None:
        raise NotFound("No such state.")
    return version, blobs.get(version.blob_id)


def _next(environment_id: int) -> int:
    newest = db.session.scalar(
        select(func.max(StateVersion.number)).where(StateVersion.environment_id == environment_id)
    )
    return (newest or 0) + 1
