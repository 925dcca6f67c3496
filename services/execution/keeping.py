"""What a phase leaves behind that must not be lost: the state in its directory, and whose credentials it had."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flask import current_app

from config import Config
from extensions import db
from policy import state_file
from policy.mfa import PhaseKind
from services import audit, states
from services.execution.inside import NotAFile, TooLarge
from services.execution.lease import held
from services.execution.work import Work
from services.mfa import sts
from services.unkept import stored_since

log = logging.getLogger(__name__)


def keep_state(work: Work, first: Callable[[], object]) -> None:
    """Store the state as the working directory has it now; commits. A file that is only half written waits.

    ``first`` is called in the transaction that stores it, before anything is written.
    """
    if work.state_kept_here:
        content = _read(work, work.workdir.state_path)
        if state_file.facts(content) is not None:
            _store(work, content, first)
    db.session.commit()


def keep_last_state(work: Work) -> bool:
    """Store the newest state of an apply's working directory; commits.

    What terraform could not write to its place (`errored.tfstate`) is newer than what is there. False when something
    must stay in the working directory: half written, or of a backend of the configuration's own.
    """
    if work.kind is PhaseKind.PLAN:
        return True
    newest, readable = _newest(work)
    if newest:
        _store(work, newest)
    db.session.commit()
    return readable


def unkept(work: Work) -> str:
    """A sentence when the working directory holds a state that is stored nowhere else, else nothing."""
    try:
        kept = keep_last_state(work)
    except Exception as error:
        db.session.rollback()
        log.error("run %s: its state cannot be stored: %s", work.run_id, type(error).__name__)
        kept = False
    if kept:
        return ""
    return sentence(work)


def sentence(work: Work) -> str:
    """What is said of a state that is in the working directory and stored nowhere."""
    return f"Terraform’s state could not be stored. It stays on the worker’s machine, in {work.workdir.root}."


def left_md5(work: Work) -> str | None:
    """The MD5 of the state that :func:`unkept` tells of; None where it cannot be stored here."""
    try:
        newest, readable = _newest(work)
    except Exception as error:  # as above
        log.error("run %s: its state cannot be read: %s", work.run_id, type(error).__name__)
        return None
    return _md5(newest) if newest and readable else None


def stored(work: Work) -> bool:
    """Whether the newest state in the working directory is stored already; stores none."""
    newest, readable = _newest(work)
    return readable and (not newest or _stored_before(work, newest))


def _newest(work: Work) -> tuple[bytes, bool]:
    """The state with the highest serial, empty for none, and whether every state that is there can be stored here."""
    errored = b"" if work.workdir.torn else _read(work, work.workdir.errored_state_path)
    if not work.state_kept_here:
        return b"", not errored
    there = [content for content in (_read(work, work.workdir.state_path), errored) if content]
    known = [(facts.serial, content) for content in there if (facts := state_file.facts(content)) is not None]
    newest = max(enumerate(known), key=lambda item: (item[1][0], item[0]))[1][1] if known else b""
    return newest, len(known) == len(there)


def _read(work: Work, path: Path) -> bytes:
    """A file's content, empty when it is not there. What is no file is no state: a link may lead anywhere."""
    try:
        return work.workdir.read(path) or b""
    except TooLarge:
        return b"too large to be read"  # and so it stays where it is
    except NotAFile:
        log.warning("run %s: %s is no ordinary file and is not kept", work.run_id, path.name)
        return b""


def _store(work: Work, content: bytes, first: Callable[[], object] = lambda: None) -> None:
    """The lease is renewed while a bucket takes its time, but not in the transaction, which has the phase's row."""
    if not _stored_before(work, content):
        states.store(work.run, content, first=first, beside=lambda: held(work.phase_id))


def _stored_before(work: Work, content: bytes) -> bool:
    """Whether exactly this state is kept already since the phase began, perhaps under newer ones."""
    return stored_since(work.environment_id, _md5(content), work.phase_id) is not None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def ask_identity(work: Work) -> Future[str | None] | None:
    """Ask AWS beside the running child who the temporary credentials are; nothing waits for the answer."""
    if work.credentials is None or work.region is None:
        return None
    config: Config = current_app.config["LOCKSTEP"]
    pool = ThreadPoolExecutor(1)
    future = pool.submit(sts.caller_arn, config, work.credentials, work.region)
    pool.shutdown(wait=False)
    return future


def keep_identity(work: Work, seconds: float = 0) -> None:
    """Write down whom AWS names as the holder of the temporary credentials; commits. Waits at most ``seconds``."""
    try:
        arn = work.identity.result(seconds) if work.identity is not None else None
    except TimeoutError:
        return
    if arn:
        phase = work.phase
        phase.caller_arn = arn
        audit.record("run.identity", phase.actor, run=phase.run, phase=phase.kind.value, caller=arn)
        db.session.commit()
    work.identity = None
