"""The sealed record of a run: every value that was secret in it, so that it can be hidden later.

An apply prints what its plan was made with, a state holds what its run was given; the variables may have changed since
then, or belong to somebody else. The record is kept as long as the run, encrypted and bound to it, in the database. It
holds no temporary credentials: those are in Redis until the worker takes them, and in the worker's directory
(services/execution/hidden.py).
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from flask import current_app
from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError

from config import Config
from extensions import db
from models import Blob, Phase, Run, StateSource, StateVersion
from policy.mfa import PhaseKind
from services import clock
from services.storage.vault import Vault, VaultError

KIND = "secrets"
_NAMESPACE = uuid.UUID("5f0e4f5c-3a86-5c1e-8c49-6a3d2f7f5a10")


def keep(run_id: int, secrets: Iterable[str]) -> None:
    """Add values to the record of a run; the caller commits. One that cannot be read any more is written anew."""
    new = set(secrets)
    if not new or new <= (old := of(run_id)):
        return
    identifier = _identifier(run_id)
    sealed = _vault().encrypt(json.dumps(sorted(old | new)).encode(), f"blob:{identifier}")
    blob = db.session.get(Blob, identifier)
    if blob is not None:
        blob.data = sealed
        return
    # Neither size nor digest: they would tell something about short values.
    values = {"id": identifier, "kind": KIND, "digest": "", "size": 0, "created_at": clock.now(), "data": sealed}
    try:
        with db.session.begin_nested():
            db.session.add(Blob(**values))
    except IntegrityError:  # another process of the same run was quicker, with the same values
        return


def of(*run_ids: int) -> set[str]:
    """What was secret in these runs; nothing for one without a record, or one that no key opens."""
    found: set[str] = set()
    query = select(Blob.id, Blob.data).where(Blob.id.in_([_identifier(one) for one in set(run_ids)]))
    for identifier, sealed in db.session.execute(query) if run_ids else ():
        with contextlib.suppress(VaultError):
            found.update(json.loads(_vault().decrypt(sealed or b"", f"blob:{identifier}")))
    return found


def behind(environment_id: int, number: int | None = None) -> set[int]:
    """The runs whose secrets a state can hold: the version of this number, or the current one.

    A terminal goes on from the version before its own. Whoever uploads a state or rolls back can bring back what any
    run left.
    """
    query = select(StateVersion.run_id).where(
        StateVersion.environment_id == environment_id, StateVersion.source != StateSource.TERMINAL
    )
    query = query if number is None else query.where(StateVersion.number <= number)
    for run_id in db.session.scalars(query.order_by(StateVersion.number.desc()).limit(1)):
        return set(db.session.scalars(_applies(environment_id))) if run_id is None else {run_id}
    return set()


def _applies(environment_id: int) -> Select[Any]:
    """The ids of the runs whose apply was begun."""
    begun = (Phase.kind == PhaseKind.APPLY, Phase.started_at.isnot(None))
    return select(Run.id).join(Run.phases).where(Run.environment_id == environment_id, *begun)


def _identifier(run_id: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"run:{run_id}"))


def _vault() -> Vault:
    config: Config = current_app.config["LOCKSTEP"]
    return config.vault
