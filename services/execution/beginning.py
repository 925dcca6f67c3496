"""How a phase begins: what it is made of is read, and its working directory made of that.

Nothing of terraform runs yet: whatever goes wrong here changed nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass

from flask import current_app

from extensions import db
from models import Phase, Run
from policy.mfa import PhaseKind
from policy.permissions import Permission
from services import access, archive_child, archives, configurations, states, variables
from services.execution import disk, hidden, host, prepared, steps
from services.execution.backend_blocks import is_configuration
from services.execution.lease import held
from services.execution.redact import Redactor
from services.execution.store_wait import StoreWait
from services.execution.walls import Walls, find_walls
from services.execution.work import TRIES, PhaseFailed, Work, require
from services.execution.workdir import Workdir, WorkdirError
from services.mfa.credentials import TemporaryCredentials
from services.storage import blobs


def prepare(phase_id: int, credentials: TemporaryCredentials | None, reader: archive_child.Reader) -> Work:
    """Make the working directory with configuration, variables and state in it.

    Everything is read first and the transaction ended: unpacking takes its time. A database or a bucket that is away
    only delays the beginning.
    Raises :class:`PhaseFailed` with the reason when something cannot be read or used, and :class:`work.CancelCame`.
    """
    with held(phase_id):
        return _prepared(phase_id, credentials, reader)


def _prepared(phase_id: int, credentials: TemporaryCredentials | None, reader: archive_child.Reader) -> Work:
    walls = find_walls(current_app.config["LOCKSTEP"].terraform_sandbox, tries=TRIES)  # with no transaction open
    require(walls)
    waits = StoreWait(phase_id, host.worker(), "Nothing was run yet: the run waits for what it begins with.")
    values, content, work, secrets = waits.through(lambda: _read(phase_id, credentials, walls), cancel=True)
    _make(work.workdir)
    try:
        work.workdir.mark_held(work.worker)
        work.stand_by(work.kind.value if prepared.there(work) else "init")
        _unpack(content.archive, work.workdir, reader)
        work.workdir.write_variables(values.terraform, values.hcl)
        _place(content, work)
        secrets |= hidden.of_configuration(work.workdir.config)
        work.redactor = Redactor(secrets)
        hidden.leave(current_app.config["LOCKSTEP"].vault, work.workdir, phase_id, secrets)
        prepared.take(work)
    except BaseException as error:
        work.dismiss()
        _unmake(work.workdir)
        if isinstance(error, WorkdirError):
            raise PhaseFailed("workdir", f"{error} Nothing was run.") from None
        if isinstance(error, OSError):
            raise _unwritable(error) from None
        raise
    return work


def barred(phase: Phase) -> bool:
    """Whether who queued the phase may not apply there any more."""
    return phase.actor is not None and not access.may(phase.actor, Permission.WRITE, phase.run.environment)


def _make(workdir: Workdir) -> None:
    """Make it anew. One in which a command was started is left as it is."""
    begun = workdir.begun
    try:
        if not begun:
            workdir.remove()  # of a worker that took the phase and began nothing, in a database that lost that
        workdir.make()
    except OSError as error:
        if not begun:
            _unmake(workdir)
        raise _unwritable(error) from None


def _unmake(workdir: Workdir) -> None:
    """Remove what was made of it. What cannot be removed is left, and the reason for the end stays the first one."""
    with contextlib.suppress(OSError):
        workdir.remove()


def _unwritable(error: OSError) -> PhaseFailed:
    said = f"The working directory on the worker’s machine cannot be written: {error.strerror}."
    return PhaseFailed("workdir", f"{said} Nothing was run.")


def _read(
    phase_id: int, credentials: TemporaryCredentials | None, walls: Walls
) -> tuple[variables.Resolved, _Content, Work, set[str]]:
    """What a phase is made of, and what must be hidden in its log; commits."""
    phase = steps.of_run(phase_id)
    assert phase is not None  # noqa: S101 (it was taken)
    run = phase.run
    values, content = steps.values_of(run, phase), _content(run, phase)
    if phase.actor is not None and barred(phase):  # the bucket took its time, and they went meanwhile
        said = f"{phase.actor.name} may not apply here any more. Nothing was run. Queue a new plan."
        raise PhaseFailed("access_ended", said)
    work = steps.work_of(run, phase, values, credentials, gated=credentials is not None)
    work.walls = walls
    if phase.kind is PhaseKind.APPLY:
        check_plan(run, content.plan, work.version)
    secrets = steps.to_hide(run, values, content.state)
    if credentials is not None:
        secrets |= {credentials.access_key_id, *credentials.secrets()}
    db.session.commit()
    return values, content, work, secrets


@dataclass(frozen=True)
class _Content:
    """What a working directory is made of."""

    archive: bytes
    state: bytes | None
    lock: bytes | None
    plan: bytes


def _content(run: Run, phase: Phase) -> _Content:
    current = states.latest(run.environment_id)
    applies = phase.kind is PhaseKind.APPLY
    what = "configuration"
    try:
        archive = blobs.get(run.configuration.blob_id, alone=True)
        what = "stored state"
        state = blobs.get(current.blob_id, alone=True) if current else None
        what = "saved plan"
        lock = blobs.get(run.lock_blob_id, alone=True) if applies and run.lock_blob_id else None
        plan = blobs.get(run.plan_blob_id or "", alone=True) if applies else b""
    except blobs.BlobUnreadable as error:
        code = {"configuration": "configuration_unreadable", "saved plan": "plan_unreadable"}.get(what, "unreadable")
        again = " Queue a new plan." if what == "saved plan" else ""
        raise PhaseFailed(code, f"The {what} cannot be read. {error} Nothing was run.{again}") from None
    return _Content(archive, state, lock, plan)


def _unpack(archive: bytes, workdir: Workdir, reader: archive_child.Reader) -> None:
    path = workdir.root / "archive"
    try:
        path.write_bytes(archive)
        reader.extract(path, workdir.config, configurations.limits())
    except archives.ArchiveRefused as error:
        raise PhaseFailed("configuration_refused", f"The configuration was refused. {error}") from None
    finally:
        path.unlink(missing_ok=True)


def _place(content: _Content, work: Work) -> None:
    """State, dependency lock file and, for an apply, exactly the saved plan."""
    workdir = work.workdir
    _require_configuration(work)
    work.state_kept_here = workdir.place_state(content.state, tofu=work.tofu)
    if work.kind is PhaseKind.APPLY:
        disk.reserve(workdir.root, len(content.state or b""))
        workdir.place_lock_file(content.lock)
        workdir.plan_path.touch(mode=0o600)
        workdir.plan_path.write_bytes(content.plan)


def _require_configuration(work: Work) -> None:
    """Something to run in the folder: with Lockstep's file for the state in it, terraform would take an empty one for a
    configuration, and plan to destroy what the state has.
    """
    folder, name = work.workdir.config / work.workdir.directory, work.workdir.directory
    correct = "Correct the Terraform directory in Settings. Nothing was run."
    if not folder.is_dir():
        raise PhaseFailed("no_directory", f"The configuration has no folder {name}. {correct}")
    if not is_configuration(folder, tofu=work.tofu):
        where, read = f"folder {name}" if name else "top folder", ".tf or .tofu" if work.tofu else ".tf or .tf.json"
        said = f"The {where} of the configuration has no files that Terraform reads ({read})."
        raise PhaseFailed("no_configuration", f"{said} {correct}")


def check_plan(run: Run, plan: bytes, version: str) -> None:
    """Refuse a plan that is not exactly the one that was shown, and another terraform than the one that made it.

    Raises :class:`PhaseFailed`.
    """
    if run.terraform_version != version:
        raise PhaseFailed(
            "terraform_changed",
            f"The plan was made with Terraform {run.terraform_version}, this is {version}. Nothing was applied. "
            "Queue a new plan.",
        )
    if hashlib.sha256(plan).hexdigest() != run.plan_digest:
        raise PhaseFailed(
            "plan_altered",
            "The saved plan is not the one that was shown. Nothing was applied. Queue a new plan.",
        )
