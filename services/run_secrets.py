"""The sealed record of a run: every value that was secret in it, so that it can be hidden later.

An apply prints what its plan was made with, a state holds what its run was given; the variables may have changed since
then, or belong to somebody else. The record is kept as long as the run, encrypted and bound to it, in the database. It
holds no temporary credentials: those are in Redis until the worker takes them, and in the worker's directory
(services/execution/hidden.py).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

from flask import current_app
from sqlalchemy.exc import IntegrityError

from config import Config
from extensions import db
from models import Blob
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


def of(*run_ids: int | None) -> set[str]:
    """What was secret in these runs; nothing for one without a record, or one that no key opens."""
    found: set[str] = set()
    for run_id in dict.fromkeys(one for one in run_ids if one is not None):
        identifier = _identifier(run_id)
        blob = db.session.get(Blob, identifier)
        if blob is None or blob.data is None:
            continue
        try:
            found.update(json.loads(_vault().decrypt(blob.data, f"blob:{identifier}")))
        except VaultError:
            continue
    return found


def _identifier(run_id: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"run:{run_id}"))


def _vault() -> Vault:
    config: Config = current_app.config["LOCKSTEP"]
    return config.vault
