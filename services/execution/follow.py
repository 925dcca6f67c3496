"""Following a running terraform: its output into the log, its state into the store, a cancel to its pid."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from flask import current_app
from sqlalchemy import update
from sqlalchemy.exc import InterfaceError, OperationalError

from config import Config
from extensions import db
from models import Phase, Run
from policy.mfa import PhaseKind
from services import audit, clock, states
from services.compare_and_set import won
from services.execution import terraform
from services.execution.child import ChildNotStarted, ChildVanished
from services.execution.spool import Piece, SpoolReader
from services.execution.steady import AWAY, steadily
from services.execution.steps import PhaseFailed, Work
from services.mfa import sts
from services.storage import logs

log = logging.getLogger(__name__)

#: Seconds between two looks at the spool, at a cancel, and between two heartbeats.
LOOK, CANCEL_LOOK, HEARTBEAT = 0.15, 1.0, 5.0

#: How much of the end of the output is kept to read terraform's closing words from, in bytes.
TAIL = 64 * 1024


class Superseded(Exception):
    """Another worker took the phase over; this one must not touch anything any more."""


class CredentialsLost(Exception):
    """The next step would have to be started, but the temporary credentials went with a lost worker."""


@dataclass
class Outcome:
    """How a step ended: terraform's exit code, the end of its output, and whether a cancel was sent."""

    exit_code: int
    tail: str
    interrupted: bool
    seconds: float


@dataclass
class _Following:
    work: Work
    child: terraform.Child
    reader: SpoolReader
    pending: list[Piece] = field(default_factory=list)
    tail: bytes = b""
    interrupted: bool = False
    state_seen: int = 0
    next_cancel: float = 0.0
    next_heartbeat: float = 0.0


def run_step(work: Work, arguments: list[str]) -> Outcome:
    """Start ``terraform <arguments>`` and follow it to its end.

    A database that is away delays the log; it never touches terraform, and no line is lost or doubled.
    Raises :class:`PhaseFailed` when terraform's end can never be known.
    """
    reader, tail = steadily(lambda: _reader(work))
    child = _attach_or_start(work, arguments)
    following = _Following(work, child, reader, tail=tail)
    try:
        if arguments[0] == "init":
            work.identity = _ask_identity(work)
        code = _until_end(following)
    except ChildVanished:
        _drain(following)
        raise PhaseFailed("vanished", f"Terraform vanished during {arguments[0]}. What it did is not known.") from None
    except Superseded:
        raise
    except Exception:
        # A fault here must not end the phase while terraform still works in its directory and on the state.
        db.session.rollback()
        child.wait()
        with contextlib.suppress(Exception):  # tried again when the working directory is cleared, and then logged
            _keep_last_state(work)
        raise
    finally:
        reader.close()
    keep_identity(work)
    return Outcome(code, following.tail.decode(errors="replace"), following.interrupted, child.duration() or 0.0)


def _reader(work: Work) -> tuple[SpoolReader, bytes]:
    """Where the log stands: a reader that goes on from there, and the output that its last words are looked up in."""
    phase = work.phase
    reader = SpoolReader(work.workdir.spool_path, work.redactor, phase.spool_offset, phase.log_size)
    tail = logs.end(phase, TAIL) if work.adopted else b""
    db.session.commit()
    return reader, tail


def _attach_or_start(work: Work, arguments: list[str]) -> terraform.Child:
    """The step's child where it was started before, by whichever worker; else a new one. None is started twice."""
    with contextlib.suppress(ChildNotStarted):
        return terraform.attach(work.workdir.control, arguments[0])
    if work.environment is None:
        raise CredentialsLost
    return terraform.start(
        work.terraform,
        arguments,
        cwd=work.workdir.cwd,
        env=work.environment,
        spool=work.workdir.spool_path,
        control=work.workdir.control,
    )


def _until_end(following: _Following) -> int:
    while True:
        code = following.child.exit_code()  # before reading: what was written until the end is read below
        if code is not None:
            _drain(following)
            steadily(lambda: _keep_last_state(following.work))
            return code
        _flush(following, final=False)
        _look_around(following)
        following.child.wait(LOOK)


def _drain(following: _Following) -> None:
    while True:
        more = _flush(following, final=True)
        if not more and not following.pending:
            return
        if following.pending:
            time.sleep(LOOK)  # the database is away; terraform has ended, so there is nothing else to do


def _flush(following: _Following, *, final: bool) -> bool:
    """Move new output into the log. Answers whether there was any."""
    if not following.pending:
        following.pending = following.reader.read_new(final=final)
    if not following.pending:
        return False
    try:
        for piece in following.pending:
            logs.append(following.work.phase_id, piece.offset, piece.data)
        reached = {"spool_offset": following.pending[-1].spool_end}
        db.session.execute(update(Phase).where(Phase.id == following.work.phase_id).values(**reached))
        db.session.commit()
    except AWAY as error:
        _away(error)
        return True
    for piece in following.pending:
        following.tail = (following.tail + piece.data)[-TAIL:]
    following.pending = []
    return True


def _look_around(following: _Following) -> None:
    """Cancel, heartbeat and state; a database that is away only delays them."""
    now = time.monotonic()
    try:
        if now >= following.next_cancel:
            following.next_cancel = now + CANCEL_LOOK
            _pass_on_cancel(following)
            if following.work.kind is PhaseKind.APPLY:
                _keep_changed_state(following)
        if now >= following.next_heartbeat:
            following.next_heartbeat = now + HEARTBEAT
            beat(following.work)
    except AWAY as error:
        _away(error)


def beat(work: Work) -> None:
    """Renew the lease; commits. Raises :class:`Superseded` when another worker holds it."""
    mine = won(
        update(Phase).where(Phase.id == work.phase_id, Phase.worker == work.worker).values(heartbeat_at=clock.now())
    )
    db.session.commit()
    if not mine:
        raise Superseded


def cancel_requested(run_id: int) -> bool:
    """Whether somebody asked to cancel the run."""
    asked = db.session.query(Run.cancel_requested_at).filter(Run.id == run_id).scalar()
    db.session.commit()
    return asked is not None


def _pass_on_cancel(following: _Following) -> None:
    if following.interrupted or not cancel_requested(following.work.run_id):
        return
    # One SIGINT to terraform's own pid: it finishes what is in flight and saves the state. A second one, or one to
    # its providers, would lose state; so it leaves a mark for a worker that takes over.
    mark = following.child.control / f"{following.child.step}.interrupted"
    following.interrupted = mark.exists()
    if not following.interrupted:
        mark.touch(mode=0o600)
        following.interrupted = following.child.interrupt()


def _keep_changed_state(following: _Following) -> None:
    path = following.work.workdir.state_path
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:
        return
    if changed != following.state_seen:
        keep_state(following.work)
        following.state_seen = changed


def _keep_last_state(work: Work) -> None:
    """Before the run moves on and the environment is free for the next one."""
    if work.kind is PhaseKind.APPLY:
        keep_state(work)
        keep_errored_state(work)


def keep_errored_state(work: Work) -> bool:
    """What terraform could not write to its place (`errored.tfstate`) is the newest state; commits.

    False when it must stay in the working directory: it belongs to a backend of the configuration's own, or cannot be
    read.
    """
    try:
        content = work.workdir.errored_state_path.read_bytes()
    except FileNotFoundError:
        return True
    if not work.state_kept_here or states.facts(content) is None:
        return False
    states.store(work.run, content)
    db.session.commit()
    return True


def keep_state(work: Work) -> bool:
    """Store the state as the working directory has it now; commits.

    False for a file that is only half written: it waits for the next look, and when terraform was killed over it, it
    stays in the working directory.
    """
    if not work.state_kept_here:
        return True
    try:
        content = work.workdir.state_path.read_bytes()
    except FileNotFoundError:
        return True
    states.store(work.run, content)
    db.session.commit()
    return not content or states.facts(content) is not None


def _ask_identity(work: Work) -> Future[str | None] | None:
    """Ask AWS beside the running child who the temporary credentials are; nothing waits for the answer."""
    if work.credentials is None:
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
    work.identity = None
    if arn:
        phase = work.phase
        phase.caller_arn = arn
        audit.record("run.identity", phase.actor, run=phase.run, phase=phase.kind.value, caller=arn)
        db.session.commit()


def _away(error: OperationalError | InterfaceError) -> None:
    log.warning("the database is away: %s", type(error.orig).__name__)
    db.session.rollback()
