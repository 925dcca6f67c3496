"""What the steps of a phase share, made anew or found again in its working directory; and terraform's arguments."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import select

from config import Config
from extensions import db
from models import Phase, Run
from services import run_secrets, variables
from services.execution import hidden, host, terraform
from services.execution.environ import child_environment
from services.execution.lease import held
from services.execution.redact import HideAll, Redactor
from services.execution.work import PhaseFailed, Work
from services.execution.workdir import Workdir
from services.mfa import sts
from services.mfa.credentials import TemporaryCredentials
from services.storage.vault import VaultError


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
        values = values_of(run, phase)
    except PhaseFailed:
        values = None
    work = work_of(run, phase, values, None, gated=phase.authenticated_at is not None, adopted=True)
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


def values_of(run: Run, phase: Phase) -> variables.Resolved:
    """The variables of the person whom the phase runs for. Raises :class:`PhaseFailed` when one cannot be read."""
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


def work_of(
    run: Run,
    phase: Phase,
    values: variables.Resolved | None,
    credentials: TemporaryCredentials | None,
    *,
    gated: bool,
    adopted: bool = False,
) -> Work:
    """What the steps of the phase share.

    ``values`` is None for an adopted phase whose variables cannot be read: nothing new is started with them. None of
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
