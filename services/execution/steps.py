"""The named steps of a phase: prepare → init → plan | apply → finish. Each leaves its mark in the log."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import select

from config import Config
from extensions import db
from models import Phase, Run
from policy.mfa import PhaseKind
from services import archive_child, archives, configurations, run_secrets, states, variables
from services.execution import disk, hidden, host, prepared, terraform
from services.execution.backend_blocks import is_configuration
from services.execution.environ import child_environment
from services.execution.lease import held
from services.execution.redact import HideAll, Redactor
from services.execution.store_wait import StoreWait
from services.execution.walls import Walls, find_walls
from services.execution.work import TRIES, PhaseFailed, Work, require
from services.execution.workdir import Workdir, WorkdirError
from services.mfa import sts
from services.mfa.credentials import TemporaryCredentials
from services.storage import blobs
from services.storage.vault import VaultError


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
    phase = of_run(phase_id)
    assert phase is not None  # noqa: S101 (it was taken)
    run = phase.run
    values, content = _values(run, phase), _content(run, phase)
    work = _work(run, phase, values, credentials, gated=credentials is not None)
    work.walls = walls
    if phase.kind is PhaseKind.APPLY:
        check_plan(run, content.plan, work.version)
    secrets = to_hide(run, values, content.state)
    if credentials is not None:
        secrets |= {credentials.access_key_id, *credentials.secrets()}
    db.session.commit()
    return values, content, work, secrets


def of_run(phase_id: int, *, lock: bool = False) -> Phase | None:
    """The phase as its run has it, both read anew. With ``lock`` the run is locked, before its phase as everywhere."""
    query = select(Run).join(Run.phases).where(Phase.id == phase_id).execution_options(populate_existing=True)
    run = db.session.scalar(query.with_for_update(of=Run) if lock else query)
    return next((phase for phase in run.phases if phase.id == phase_id), None) if run is not None else None


def resume(run: Run, phase: Phase) -> Work | None:
    """The work of a lost worker, as its working directory tells; None where terraform had not been started yet.

    What is left of such a directory is removed. The credentials of a gated phase went with the worker. Whatever cannot
    be read any more, a terraform that runs is followed to its end.
    """
    workdir, phase_id = workdir_of(run, phase), phase.id
    if not workdir.begun:
        db.session.commit()  # removing what was unpacked can take a while
        with held(phase_id):
            workdir.remove()
        return None
    try:
        values = _values(run, phase)
    except PhaseFailed:
        values = None
    work = _work(run, phase, values, None, gated=phase.authenticated_at is not None, adopted=True)
    secrets = hidden.found(current_app.config["LOCKSTEP"].vault, workdir, phase.id)
    work.redactor = HideAll() if secrets is None else Redactor(secrets)
    work.state_kept_here = run.own_backend is None
    with contextlib.suppress(OSError):  # without it, whoever comes next waits for the lease to lapse
        workdir.mark_held(work.worker)
    return work


def abandoned(phase: Phase) -> bool:
    """Whether the process that follows this phase is known to be gone, so that nobody need wait for its lease to lapse.

    Only once the last command was started: what a process was about to start when it was killed may start a moment
    later, and whoever took over at once would start it a second time.
    """
    if phase.worker is None or host.of(phase.worker) != host.identity():
        return False
    workdir = workdir_of(phase.run, phase)
    return workdir.started(phase.kind.value) and workdir.abandoned_by(phase.worker)


def of_ended(phase: Phase, root: Path) -> Work:
    """As much of the work of a phase that has ended as looking after its working directory ``root`` takes."""
    run = phase.run
    workdir = Workdir(root, workdir_of(run, phase).directory)
    return Work(
        run_id=run.id,
        phase_id=phase.id,
        environment_id=run.environment_id,
        kind=phase.kind,
        configuration=run.configuration.number,
        workdir=workdir,
        terraform=None,
        environment=None,
        show_environment={},
        redactor=HideAll(),
        credentials=None,
        region=None,
        version=run.terraform_version or "",
        worker=phase.worker or "",
        adopted=True,
        state_kept_here=run.own_backend is None,
    )


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


def _values(run: Run, phase: Phase) -> variables.Resolved:
    try:
        return variables.resolve(phase.actor or run.created_by, run.environment.organization, run.environment)
    except VaultError as error:
        raise PhaseFailed("variables_unreadable", f"A variable cannot be read. {error} Nothing was run.") from None


def to_hide(run: Run, values: variables.Resolved, state: bytes | None) -> set[str]:
    """What is secret in this run, what was when its plan was made, and what earlier ones left in ``state``, which it
    begins with; kept with the run. The caller commits.

    What a variable of the run holds in clear is no secret of an earlier one any more.
    """
    given = [*values.env.values(), *values.terraform.values(), *values.hcl.values()]
    own = {*values.secrets, *hidden.of_values(given)}
    others = variables.sensitive_values(run.environment.organization, run.environment)
    left = run_secrets.left(run, others, state) - values.clear
    return run_secrets.keep(run.id, own | left) | hidden.of_installation(current_app.config["LOCKSTEP"])


def workdir_of(run: Run, phase: Phase) -> Workdir:
    """Each queueing of a phase has a working directory of its own."""
    config: Config = current_app.config["LOCKSTEP"]
    attempt = int(phase.queued_at.timestamp() * 1000) if phase.queued_at else 0
    return Workdir.existing(config.home, phase.id, attempt, run.terraform_directory)


def _work(
    run: Run,
    phase: Phase,
    values: variables.Resolved | None,
    credentials: TemporaryCredentials | None,
    *,
    gated: bool,
    adopted: bool = False,
) -> Work:
    """``values`` is None for an adopted phase whose variables cannot be read: nothing new is started with them. None of
    terraform's output is shown until the caller says what has to be hidden in it.
    """
    config: Config = current_app.config["LOCKSTEP"]
    program, version = _program(config, run, adopted=adopted)
    workdir = workdir_of(run, phase)
    operator = {**config.operator, "PATH": os.environ.get("PATH", "")}
    common: dict[str, Any] = {"home": workdir.home, "operator": operator}
    environment = None
    if values is not None and (credentials is not None or not gated):
        environment = child_environment(**common, variables=values.env, credentials=credentials, gated=gated)
    return Work(
        run_id=run.id,
        phase_id=phase.id,
        environment_id=run.environment_id,
        kind=phase.kind,
        configuration=run.configuration.number,
        workdir=workdir,
        terraform=program,
        environment=environment,
        show_environment=child_environment(**common, variables={}, credentials=None, gated=False),
        redactor=HideAll(),
        credentials=credentials,
        region=sts.region_for(phase.mfa_serial or "", values.region) if values else None,
        version=version,
        worker=phase.worker or "",
        adopted=adopted,
        unhidden=values.unhidden if values else (),
    )


def _program(config: Config, run: Run, *, adopted: bool) -> tuple[terraform.Terraform | None, str]:
    """Terraform and its version; None for an adopted phase, which may need none any more."""
    try:
        program = terraform.locate(config.terraform_bin)
        return program, terraform.version(program)
    except terraform.TerraformMissing as missing:
        if adopted:
            return None, run.terraform_version or ""
        raise PhaseFailed("terraform_missing", f"{missing} Nothing was run.") from None


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


def init_arguments() -> list[str]:
    """``terraform init``."""
    return ["init", "-input=false"]


def plan_arguments(work: Work) -> list[str]:
    """``terraform plan`` into the saved plan; exit code 2 for changes, 0 for none."""
    return [
        "plan",
        "-input=false",
        "-detailed-exitcode",
        f"-out={work.workdir.plan_path}",
        *work.workdir.plan_arguments(),
    ]


def apply_arguments(work: Work) -> list[str]:
    """``terraform apply`` of exactly the saved plan."""
    return ["apply", "-input=false", *work.workdir.apply_arguments(tofu=work.tofu), str(work.workdir.plan_path)]
