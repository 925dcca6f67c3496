"""Following a running terraform: its output into the log, its state into the store, a cancel to its pid."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from dataclasses import dataclass, field

from sqlalchemy import select, update

from extensions import db
from models import Phase
from policy.mfa import PhaseKind
from services.execution import keeping, lease, release, terraform
from services.execution.child import ChildError, ChildNotStarted, ChildVanished
from services.execution.disk import DiskWatch
from services.execution.lease import Superseded
from services.execution.spool import Piece, SpoolReader
from services.execution.state_watch import StateWatch
from services.execution.steady import AWAY, Away, start_over, steadily, tell
from services.execution.stopping import Stopper
from services.execution.work import PhaseFailed, Vanished, Work
from services.storage import logs

log = logging.getLogger(__name__)

#: Seconds between two looks at the spool, and at a cancel.
LOOK, CANCEL_LOOK = 0.15, 1.0

#: Seconds between two words in the worker's log on terraform not being followed.
COMPLAINT = 60.0

#: How much of the end of the output is kept to read terraform's closing words from, in bytes.
TAIL = 64 * 1024

#: A worker that is to end waits this many seconds for AWS's word on the credentials, which end with it.
IDENTITY_SECONDS = 2


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
    stopper: Stopper = field(init=False)
    disk: DiskWatch = field(init=False)
    state: StateWatch = field(init=False)
    pending: list[Piece] = field(default_factory=list)
    own: list[tuple[str, str]] = field(default_factory=list)
    tried: int = 0
    tail: bytes = b""
    next_cancel: float = 0.0
    next_heartbeat: float = field(init=False)
    next_complaint: float = 0.0

    def __post_init__(self) -> None:
        self.next_heartbeat = time.monotonic() + lease.HEARTBEAT  # `_reader` renewed the lease
        self.stopper = Stopper(self.work, self.child, self.say)
        self.disk = DiskWatch(self.work.phase_id, self.work.workdir.spool_path, self.say)
        self.state = StateWatch(self.work)

    @property
    def behind(self) -> bool:
        """Whether something waits for the database: output that was read, or lines of Lockstep's own."""
        return bool(self.pending or self.own)

    def say(self, text: str, tone: str) -> None:
        """Put a line of Lockstep's own after the output so far; commits. The output goes on behind it.

        While the database is away it waits as the output does, and one that waits already is not said twice.
        """
        waits = (text, tone) in self.own
        try:
            _flush(self, final=False)
        finally:  # where the output cannot be read, the line comes before it
            if not waits:
                self.own.append((text, tone))
        _flush(self, final=False)


def run_step(work: Work, arguments: list[str]) -> Outcome:
    """Start ``terraform <arguments>`` and follow it to its end.

    A database that is away delays the log; it never touches terraform, and no line is lost or doubled.
    Raises :class:`Vanished` when terraform's end can never be known, and :class:`release.LetGo` when this worker
    is to leave it to the next one.
    """
    reader, tail = steadily(lambda: _reader(work))
    child = _attach_or_start(work, arguments)
    following = steadily(lambda: _Following(work, child, reader, tail=tail))
    try:
        if arguments[0] == work.steps[0]:
            work.identity = keeping.ask_identity(work)
        if step_after := dict(itertools.pairwise(work.steps)).get(arguments[0]):
            work.stand_by(step_after)
        code = _until_end(following)
    except ChildVanished:
        child.kill_session()
        _drain(following)
        raise Vanished(arguments[0]) from None
    except (Superseded, release.LetGo):
        raise
    except Exception:
        # A fault here must not end the phase while terraform still works in its directory and on the state.
        start_over()
        child.wait()
        try:
            lease.require(work.phase_id, work.worker)
            keeping.keep_last_state(work)
        except Superseded:
            raise
        except Exception:  # tried again when the working directory is cleared, and then logged
            start_over()
        raise
    finally:
        reader.close()
    steadily(lambda: keeping.keep_identity(work))
    interrupted = following.stopper.interrupted
    return Outcome(code, following.tail.decode(errors="replace"), interrupted, child.duration() or 0.0)


def _reader(work: Work) -> tuple[SpoolReader, bytes]:
    """Where the log stands: a reader that goes on from there, and the output that its last words are looked up in.

    The lease is renewed: what is started next, only its holder may.
    """
    lease.hold(work.phase_id, work.worker)
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
    if work.terraform is None:
        raise PhaseFailed("terraform_missing", "There is no terraform on the worker’s machine any more.")
    if work.walls.unknown:  # it takes its time
        with lease.held(work.phase_id):
            sandbox = work.sandbox
        steadily(lambda: lease.beat(work.phase_id, work.worker))
    else:
        sandbox = work.sandbox
    try:
        if standing := work.ready_for(arguments[0]):
            with contextlib.closing(standing):
                return standing.release(arguments)
        return terraform.start(
            work.terraform,
            arguments,
            cwd=work.workdir.cwd,
            env=work.environment,
            spool=work.workdir.spool_path,
            control=work.workdir.control,
            sandbox=sandbox,
        )
    except (ChildError, OSError) as error:
        with contextlib.suppress(ChildNotStarted):  # its wrapper was killed as it was about to answer
            return terraform.attach(work.workdir.control, arguments[0])
        log.error("phase %s: terraform cannot be started: %s", work.phase_id, type(error).__name__)
        said = f"Terraform {arguments[0]} could not be started; is the disk of the worker’s machine full?"
        raise PhaseFailed("not_started", f"{said} Nothing was applied.") from None


def _until_end(following: _Following) -> int:
    while True:
        code = following.child.exit_code()  # before reading: what was written until the end is read below
        if code is not None:
            following.child.kill_session()  # what a provisioner left running has the run's credentials
            if not _drain(following):
                steadily(lambda: lease.beat(following.work.phase_id, following.work.worker))
            following.state.end(code)
            return code
        try:
            following.disk.make_room()  # before anything that waits for the database
            _flush(following, final=False)
            _look_around(following)
        except Superseded:
            raise
        except Exception as error:
            _stumble(following, error)
        if release.asked() and _may_let_go(following):
            _let_go(following.work)
        following.child.wait(LOOK)


def _stumble(following: _Following, error: Exception) -> None:
    """A fault of Lockstep's own is tried again for as long as terraform runs; a cancel and the limits reach it.

    The lease is not renewed for its sake: where nothing else does, the page soon says that nobody follows, and another
    worker takes over. Raises :class:`Superseded` then.
    """
    start_over()
    if time.monotonic() >= following.next_complaint:
        following.next_complaint = time.monotonic() + COMPLAINT
        log.error("phase %s: terraform is not followed for now: %s", following.work.phase_id, type(error).__name__)
    try:
        lease.require(following.work.phase_id, following.work.worker)
        following.stopper.look()
    except Superseded:
        raise
    except Exception:  # the next look meets with it again
        start_over()
    following.child.wait(CANCEL_LOOK)


def _may_let_go(following: _Following) -> bool:
    """Whether nothing is lost: credentials that the next step still needs exist in this process and nowhere else."""
    last = following.child.step == following.work.kind.value
    return not following.behind and (last or following.work.credentials is None)


def _let_go(work: Work) -> None:
    """Give the lease back, so that the next worker need not wait for it to lapse."""

    def _give_back() -> None:
        mine = (Phase.id == work.phase_id, Phase.worker == work.worker)
        db.session.execute(update(Phase).where(*mine).values(heartbeat_at=None))
        db.session.commit()

    steadily(lambda: keeping.keep_identity(work, IDENTITY_SECONDS))
    steadily(_give_back)
    raise release.LetGo


def _drain(following: _Following) -> bool:
    """Move the rest of the output into the log. Answers whether there was any, and so the lease renewed."""
    any_more = False
    while True:
        if not _flush(following, final=True):
            return any_more
        any_more = True
        if following.behind:
            time.sleep(LOOK)  # the database is away; terraform has ended, so there is nothing else to do


def _flush(following: _Following, *, final: bool) -> bool:
    """Move what waits into the log, or else new output. Answers whether there was any."""
    if not following.behind:
        following.pending = following.reader.read_new(final=final)
    if not following.behind:
        return False
    try:
        pieces = [(piece.offset, piece.data) for piece in following.pending]
        lease.hold(following.work.phase_id, following.work.worker)
        if pieces:
            logs.append_all(following.work.phase_id, pieces, spool_offset=following.pending[-1].spool_end)
        end = _say_own(following) if following.own else following.reader.log_offset
        db.session.commit()
    except AWAY as error:
        _away(error)
        return True
    following.reader.log_offset, following.own = end, []
    if following.pending:
        with contextlib.suppress(OSError):  # a disk without room, say; the directory is removed at the end all the same
            following.reader.wipe(following.pending[-1].spool_end)
    for piece in following.pending:
        following.tail = (following.tail + piece.data)[-TAIL:]
    following.pending = []
    return True


def _say_own(following: _Following) -> int:
    """Put Lockstep's own lines behind the output; the caller commits. Answers where the log ends with them.

    Only the log knows whether a commit without an answer stored them: it is longer then than what was read.
    """
    phase_id, reader = following.work.phase_id, following.reader
    end = db.session.scalars(select(Phase.log_size).where(Phase.id == phase_id)).one()
    if end > reader.log_offset:
        del following.own[: following.tried]
        reader.log_offset = end
    following.tried = len(following.own)
    for text, tone in following.own:
        end = logs.say(phase_id, text, tone=tone)
    return end


def _look_around(following: _Following) -> None:
    """Cancel, heartbeat and state; a database that is away only delays them."""
    now = time.monotonic()
    try:
        following.disk.look()
        if now >= following.next_cancel:
            following.next_cancel = now + CANCEL_LOOK
            following.stopper.look()
            if following.work.kind is PhaseKind.APPLY:
                following.state.look()
        if now >= following.next_heartbeat:
            following.next_heartbeat = now + lease.HEARTBEAT
            lease.beat(following.work.phase_id, following.work.worker)
        if (identity := following.work.identity) is not None and identity.done():
            keeping.keep_identity(following.work)  # who asked may be gone before the step ends, with the credentials
    except AWAY as error:
        _away(error)


def _away(error: Away) -> None:
    tell(error)
    start_over()
