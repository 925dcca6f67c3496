"""The sealed record of a run: every value that was secret in it, so that it can be hidden later.

An apply prints what its plan was made with, a state holds what its run was given, and a plan prints the state that it
begins with; the variables may have changed since then, or belong to somebody else. So a record also takes over what
earlier runs left (:func:`left`). It is kept as long as the run, encrypted and bound to it, in the database. It holds no
temporary credentials: those are in Redis until the worker takes them, and in the worker's directory
(services/execution/hidden.py).
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from flask import current_app
from sqlalchemy import Select, exists, select
from sqlalchemy.exc import IntegrityError

from config import Config
from extensions import db
from models import Blob, Phase, Run, StateSource, StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import PhaseKind
from services import clock
from services.execution.hcl import WORDS
from services.execution.redact import standing
from services.storage.vault import Vault, VaultError

KIND = "secrets"
#: Of so many applies with the highest numbers the last is the one that began last: a run can wait while newer ones go.
RECENT = 10
#: Of an environment with more applies, the newest so many are asked for what somebody may have brought back.
MOST = 5_000
_NAMESPACE = uuid.UUID("5f0e4f5c-3a86-5c1e-8c49-6a3d2f7f5a10")


def keep(run_id: int, secrets: Iterable[str]) -> set[str]:
    """Add values to the record of a run, and answer all of it; the caller commits.

    A record that cannot be read any more is written anew.
    """
    new, old = set(secrets), of(run_id)
    if new <= old:
        return old
    identifier = _identifier(run_id)
    sealed = _vault().encrypt(json.dumps(sorted(old | new)).encode(), f"blob:{identifier}")
    blob = db.session.get(Blob, identifier)
    if blob is not None:
        blob.data = sealed
        return old | new
    # Neither size nor digest: they would tell something about short values.
    values = {"id": identifier, "kind": KIND, "digest": "", "size": 0, "created_at": clock.now(), "data": sealed}
    # Another process of the same run may be quicker, with the same values.
    with contextlib.suppress(IntegrityError), db.session.begin_nested():
        db.session.add(Blob(**values))
    return old | new


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
        if run_id is not None:
            return {run_id}
        return set(db.session.scalars(_applies(environment_id, Run.id).order_by(Run.number.desc()).limit(MOST)))
    return set()


def left(run: Run, others: set[str], state: bytes | None) -> set[str]:
    """What a run can print that earlier ones left behind, of their records and of ``others``: other people's variables.

    That is what stands in ``state``, which the run begins with (JSON, None for none). Where the last apply did not end
    well, or its state is kept elsewhere or encrypted, nobody knows what it left, and everything counts. Words such as
    "true" say nothing of a value; hidden, they would make every later log unreadable.
    """
    saved = exists().where(StateVersion.run_id == Run.id).label("saved")
    applies = _applies(run.environment_id, Run.id, Run.status, Phase.started_at, saved).where(Run.id != run.id)
    recent = db.session.execute(applies.order_by(Run.number.desc()).limit(RECENT))
    last = max(recent, key=lambda apply: apply.started_at, default=None)
    found = of(*behind(run.environment_id), *([last.id] if last is not None else [])) | others
    told = last is None or (last.status is RunStatus.APPLIED and last.saved and _readable(state))
    return (standing(found, state or b"") if told else found) - WORDS


def _readable(state: bytes | None) -> bool:
    """Whether it shows what it holds; OpenTofu can encrypt one."""
    return state is None or b'"encrypted_data"' not in state


def _applies(environment_id: int, *columns: Any) -> Select[Any]:
    """These columns of the runs whose apply was begun.

    Plans without changes have none. Where one is made every hour they are most, so their phases are not looked up.
    """
    begun = (Phase.kind == PhaseKind.APPLY, Phase.started_at.isnot(None))
    here = (Run.environment_id == environment_id, Run.status != RunStatus.PLANNED_AND_FINISHED)
    return select(*columns).join(Run.phases).where(*here, *begun)


def _identifier(run_id: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"run:{run_id}"))


def _vault() -> Vault:
    config: Config = current_app.config["LOCKSTEP"]
    return config.vault
