"""What is known of a run whose terraform vanished, and what is not: kept with the run, told on its page.

The object has these keys: ``step`` (init, plan or apply), ``worker`` (HOST:PID that followed it), ``last_sign`` of
that worker and ``last_output`` of terraform (ISO 8601 or None), ``rebooted`` (whether the machine restarted since),
``serial`` (of the state that the run stored, or None), ``unkept`` (a sentence when a state is kept nowhere but on the
machine), ``no_directory`` (whether the working directory was gone), ``errored_state`` (whether terraform left an
``errored.tfstate``), ``lock`` (what terraform's own lock file said: its Operation, Who and Created), ``own_backend``,
``begun`` (whether the apply itself was started), ``done`` (how many resources were finished), ``failed`` and
``unsure`` (addresses, policy/apply_progress.py), and ``given_up_by``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models import Phase, Run
from policy import apply_progress
from policy.mfa import PhaseKind
from services import run_pages
from services.execution import terraform
from services.execution.child import boot_id
from services.execution.redact import Redactor
from services.execution.work import Work
from services.storage import logs

#: What terraform 1.11 writes (internal/states/statemgr/locker.go): a name, USER@HOST, a time.
_LOCK_INFO = {
    "Operation": re.compile(r"[A-Za-z-]{1,40}"),
    "Who": re.compile(r"[ -~\u00a0-\uffff]{1,200}"),
    "Created": re.compile(r"[0-9:.TZ +-]{1,40}"),
}


def gather(work: Work, step: str, unkept: str) -> dict[str, Any]:
    """The facts as the working directory, the log and the database hold them."""
    phase, run, workdir = work.phase, work.run, work.workdir
    child = terraform.attach(workdir.control, step)
    facts = known(run, phase)
    facts |= {
        "step": step,
        "last_sign": _iso(work.last_sign or phase.heartbeat_at),
        "last_output": _iso(_changed(workdir.spool_path)),
        "rebooted": child.command.boot_id != boot_id(),
        "unkept": unkept,
        "errored_state": workdir.errored_state_path.exists(),
        "lock": _lock(work),
        "own_backend": not work.state_kept_here,
        "begun": work.kind is PhaseKind.APPLY and work.begun,
    }
    return facts


def known(run: Run, phase: Phase) -> dict[str, Any]:
    """What is known without the working directory, for a machine that is gone."""
    state = run_pages.state_of(run)
    progress = apply_progress.progress(_lines(phase)) if phase.kind is PhaseKind.APPLY else apply_progress.Progress()
    return {
        "step": phase.kind.value,
        "worker": phase.worker,
        "last_sign": _iso(phase.heartbeat_at),
        "last_output": None,
        "rebooted": False,
        "no_directory": False,
        "serial": state.serial if state else None,
        "unkept": "",
        "errored_state": False,
        "lock": None,
        "own_backend": run.own_backend is not None,
        "begun": phase.kind is PhaseKind.APPLY,
        "done": len(progress.done),
        "failed": progress.failed[: apply_progress.MOST],
        "unsure": progress.unsure[: apply_progress.MOST],
        "given_up_by": None,
    }


def without_directory(run: Run, phase: Phase, last_sign: datetime | None) -> dict[str, Any]:
    """What is known where the working directory is gone, and another worker gave the ``last_sign``."""
    return known(run, phase) | {"no_directory": True, "last_sign": _iso(last_sign)}


def sentence(kind: PhaseKind, facts: dict[str, Any]) -> str:
    """One or two sentences for the log, the list and the error's place."""
    if facts["given_up_by"]:
        what = f"{facts['given_up_by']} gave up on the worker, which gave no sign any more."
    elif facts["no_directory"]:
        gone = f"The working directory of the {kind} is gone, as after a restored backup"
        what = f"{gone}: how terraform ended is not known."
    elif facts["rebooted"]:
        what = "The worker’s machine was restarted, and terraform ended with it."
    else:
        what = f"Terraform vanished during {facts['step']}: something ended it from outside."
    if kind is PhaseKind.PLAN or not facts["begun"]:
        return f"{what} Nothing was applied. Queue a new plan."
    if facts["unkept"]:
        return f"{what} {facts['unkept']}"
    if facts["own_backend"]:
        kept = "The state is in the configuration’s own backend"
    elif facts["serial"] is None:
        kept = "No state was saved"
    else:
        kept = f"The state was saved up to serial {facts['serial']}"
    return f"{what} {kept}; Terraform may have begun changes that it does not know. Queue a new plan."


def _lines(phase: Phase) -> Iterator[bytes]:
    rest = b""
    for piece in logs.raw(phase.id):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    yield rest


def _changed(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def _lock(work: Work) -> dict[str, str] | None:
    """Terraform's lock file beside a state (its LockInfo). It goes with the directory: nobody stays locked out.

    The run can write into it whatever it likes, and readers see it: so it is masked like the log, and what terraform
    would not have written is left out.
    """
    state = work.workdir.state_path
    try:
        found = json.loads(work.workdir.read(state.with_name(f".{state.name}.lock.info")) or b"null")
        return {name: _masked(work.redactor, found.get(name), pattern) for name, pattern in _LOCK_INFO.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _masked(redactor: Redactor, value: Any, pattern: re.Pattern[str]) -> str:
    # Judged before it is masked: one that was cut could end in the beginning of a secret.
    return redactor.text(value) if isinstance(value, str) and pattern.fullmatch(value) else ""


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
