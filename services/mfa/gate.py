"""The gate: from six typed digits to a queued phase.

Everything that can be refused here is refused before AWS is asked, because a code works once. Then one STS call, and
what can have changed meanwhile is looked at once more.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from flask import current_app
from redis.exceptions import RedisError
from sqlalchemy import func, or_, select, update

from config import Config
from extensions import db
from models import Membership, MfaAttempt, Outcome, Phase, Run, User
from policy import mfa, sts_answers
from policy.lifecycle import Event, can_authenticate
from policy.mfa import PhaseKind
from policy.permissions import Permission
from policy.sts_answers import Answer
from services import audit, clock, holds, organizations, queue, runs, variables
from services.access import require
from services.compare_and_set import won
from services.errors import CodeRejected, Conflict, Forbidden, NotFound, ServiceAway, TooManyAttempts
from services.mfa import handoff, sts
from services.mfa.credentials import TemporaryCredentials
from services.queue import connection
from services.storage import logs

#: An STS call in flight is forgotten after this long; the call itself ends after 20 s at most.
_CLAIM_LIFETIME = timedelta(seconds=60)

_ACCESS_ENDED = "You lost access or were signed out while AWS looked at the code. Nothing was started."


@dataclass(frozen=True)
class _Try:
    """One submission of the form, by an account: what makes it a member can be gone when AWS has answered.

    ``epoch`` is that of the person's sessions when they sent it.
    """

    user: User
    epoch: int
    run: Run
    phase: Phase
    serial: str
    now: datetime


def authenticate(membership: Membership, run: Run, typed: str) -> None:
    """Check a code with AWS and queue the phase that the run awaits it for; commits.

    ``typed`` is what the person entered. Raises :class:`services.errors.Forbidden` and :class:`NotFound` (also for who
    lost access while AWS answered), :class:`Conflict` (the run is not waiting, the environment is held or locked,
    another code is being checked), :class:`CodeRejected`, :class:`TooManyAttempts`, :class:`ServiceAway`. The run stays
    waiting on each of them.
    """
    require(membership, Permission.WRITE, "You cannot authenticate runs here.", run.environment)
    kind = _require_waiting(run)
    runs.refuse_when_locked(run.environment)
    user = membership.user
    values = variables.resolve(user, run.environment.organization, run.environment)
    attempt = _Try(user, user.session_epoch, run, run.phase(kind), values.device or "", clock.now())
    code = mfa.normalise_code(typed)
    if code is None:
        _stop(attempt, sts_answers.NOT_SIX_DIGITS)
    _refuse_too_many(attempt)
    if values.missing_for_mfa:
        _stop(attempt, sts_answers.VARIABLES_MISSING, f"Not set: {', '.join(values.missing_for_mfa)}.")
    _refuse_used(attempt, code)
    keys = sts.LongLivedKeys(
        values.env["AWS_ACCESS_KEY_ID"], values.env["AWS_SECRET_ACCESS_KEY"], attempt.serial, values.region
    )
    seconds = run.environment.session_seconds
    claim = _claim(attempt)
    try:
        _refuse_crowd(attempt)
        phase_id = attempt.phase.id
        db.session.commit()
        handoff.drop(phase_id)  # what a process left there that ended before it had queued the phase
        # No row is read from here to the answer: it would open a transaction, and on SQLite keep everybody waiting.
        credentials = sts.get_session_token(_config(), keys, code, seconds)
    except sts.StsRefused as refused:
        if refused.answer is sts_answers.NO_ANSWER:  # AWS may have taken it
            _remember_used(attempt.serial, code)
        _refused(attempt, claim, refused)
    except BaseException:
        db.session.rollback()
        _unclaim(attempt.phase.id, claim)
        db.session.commit()
        raise
    _remember_used(attempt.serial, code)
    _accepted(attempt, claim, credentials)


def _require_waiting(run: Run) -> PhaseKind:
    kind = run.status.awaited_phase
    if kind is None or not can_authenticate(run.status):
        raise Conflict(
            f"This run is not waiting for a code: it is {run.status.words.lower()}. Nothing was sent to AWS."
        )
    blocking = runs.blocking(run)
    if blocking is not None:
        raise Conflict(
            f"Run #{blocking.number} holds {run.environment.name}. Nothing was sent to AWS; "
            "enter a code when that run has ended."
        )
    return kind


def _refuse_too_many(attempt: _Try) -> None:
    """Five refusals in fifteen minutes: of AWS for a person, of a code for a device.

    Whatever else AWS refuses does not count for the device: with keys of their own anybody could name the device of
    somebody else, and shut them out.
    """
    for times in (_refusals_of_person(attempt), _refusals_of_device(attempt)):
        wait = mfa.waiting_time(times, attempt.now)
        if wait is not None:
            seconds = max(1, int(wait.total_seconds()))
            _record(attempt, Outcome.STOPPED, sts_answers.TOO_MANY)
            db.session.commit()
            minutes = -(-seconds // 60)
            raise TooManyAttempts(
                sts_answers.TOO_MANY.reason,
                f"{sts_answers.TOO_MANY.sentence} Try again in {minutes} min.",
                waiting=seconds,
            )


def _refuse_crowd(attempt: _Try) -> None:
    """Codes sent at the same time for several runs may not exceed the limit either: each may still be refused.

    The claims are counted first. One that turns into a refusal meanwhile is counted twice, and never not at all.
    """
    live = select(func.count()).where(Phase.claim_at > clock.now() - _CLAIM_LIFETIME)
    person, device = _claim_words(attempt)
    of_person = db.session.scalar(live.where(Phase.claim.startswith(f"{person}.", autoescape=True))) or 0
    of_device = db.session.scalar(live.where(Phase.claim.contains(f".{device}.", autoescape=True))) or 0
    if (
        of_person + len(_refusals_of_person(attempt)) > mfa.ATTEMPT_LIMIT
        or of_device + len(_refusals_of_device(attempt)) > mfa.ATTEMPT_LIMIT
    ):
        raise Conflict("Other codes of yours are being checked right now. Nothing was sent to AWS; try again shortly.")


def _refusals_of_person(attempt: _Try) -> list[datetime]:
    query = select(MfaAttempt.at).where(
        MfaAttempt.user_id == attempt.user.id,
        MfaAttempt.at > attempt.now - mfa.ATTEMPT_WINDOW,
        MfaAttempt.outcome == Outcome.REFUSED,
    )
    return list(db.session.scalars(query))


def _refusals_of_device(attempt: _Try) -> list[datetime]:
    query = select(MfaAttempt.at).where(
        MfaAttempt.serial == attempt.serial,
        MfaAttempt.at > attempt.now - mfa.ATTEMPT_WINDOW,
        MfaAttempt.outcome == Outcome.REFUSED,
        MfaAttempt.reason == sts_answers.CODE_REFUSED.reason,
    )
    return list(db.session.scalars(query)) if attempt.serial else []


def _refuse_used(attempt: _Try, code: str) -> None:
    db.session.commit()  # on SQLite everybody would wait for Redis, too
    try:
        used = connection().exists(_used_key(attempt.serial, code))
    except RedisError:
        raise ServiceAway("Redis does not answer. Nothing was sent to AWS; the code is not used up.") from None
    if used:
        wait = mfa.next_code_in(attempt.now)
        _stop(attempt, sts_answers.ALREADY_USED, f"Next code in {wait} s.", waiting=wait)


def _claim(attempt: _Try) -> str:
    """Mark that a call is in flight, so that two clicks at once make one call. Commits: no lock is held meanwhile."""
    claim, now = ".".join((*_claim_words(attempt), secrets.token_hex(6))), clock.now()
    statement = update(Phase).where(
        Phase.id == attempt.phase.id,
        Phase.authenticated_at.is_(None),
        or_(Phase.claim.is_(None), Phase.claim_at < now - _CLAIM_LIFETIME),
    )
    if not won(statement.values(claim=claim, claim_at=now)):
        db.session.rollback()
        raise Conflict("A code for this run is being checked right now. Nothing more was sent to AWS.")
    db.session.commit()
    return claim


def _unclaim(phase_id: int, claim: str) -> bool:
    statement = update(Phase).where(Phase.id == phase_id, Phase.claim == claim)
    return won(statement.values(claim=None, claim_at=None))


def _claim_words(attempt: _Try) -> tuple[str, str]:
    """Whose claim it is: the person, and a digest of the device in place of its long name."""
    return str(attempt.user.id), hashlib.sha256(attempt.serial.encode()).hexdigest()[:12]


def _accepted(attempt: _Try, claim: str, credentials: TemporaryCredentials) -> None:
    phase_id = attempt.phase.id
    db.session.commit()
    sealed = False
    try:
        # Before the transaction, which on SQLite keeps everybody waiting, and so should not wait for Redis itself.
        handoff.seal(phase_id, credentials)
        sealed = True
        queued = _open_gate(attempt, claim, credentials)
        db.session.commit()
    except BaseException as error:
        db.session.rollback()
        if sealed:
            handoff.drop(phase_id)
        _unclaim(phase_id, claim)
        ended = isinstance(error, Forbidden | NotFound)
        _record(attempt, Outcome.ACCEPTED, sts_answers.ACCESS_ENDED if ended else sts_answers.TOO_LATE)
        db.session.commit()
        if isinstance(error, RedisError):
            raise ServiceAway("AWS accepted the code, but Redis does not answer. Nothing was started.") from None
        if isinstance(error, Conflict):
            raise Conflict(sts_answers.TOO_LATE.sentence) from None
        raise
    queue.enqueue_phase(queued)


def _open_gate(attempt: _Try, claim: str, credentials: TemporaryCredentials) -> Phase:
    """Everything that stands in the database once AWS has accepted the code; the caller commits and enqueues."""
    run, phase, user = attempt.run, attempt.phase, attempt.user
    db.session.refresh(run)
    _require_person(attempt, sts_answers.ACCESS_ENDED.sentence)
    runs.refuse_when_locked(run.environment)
    if not _unclaim(phase.id, claim) or run.status.awaited_phase is not phase.kind:
        raise Conflict(runs.MOVED_ON)
    if phase.kind is PhaseKind.PLAN and not holds.hold(run.environment_id, run.id):
        raise Conflict(runs.MOVED_ON)
    phase.authenticated_by_id, phase.authenticated_at, phase.mfa_serial = user.id, clock.now(), attempt.serial
    phase.session_expires_at = credentials.expires_at
    phase.caller_arn = None  # of these credentials nobody has asked yet
    phase.session_seconds = run.environment.session_seconds
    db.session.flush()
    runs.transition(run, Event.AUTHENTICATE)
    _record(attempt, Outcome.ACCEPTED, None, expires_at=credentials.expires_at)
    logs.say(phase.id, f"Authenticated with MFA by {user.name}", tone="ok")
    logs.say(phase.id, f"Device {attempt.serial}, session until {credentials.expires_at:%H:%M:%S} UTC")
    return runs.mark_queued(run, phase.kind, user)


def _require_person(attempt: _Try, sentence: str) -> None:
    """Raise as :func:`authenticate` for who lost access, or was signed out everywhere, since they sent the code."""
    environment = attempt.run.environment
    membership = organizations.membership(attempt.user, environment.organization.name)
    require(membership, Permission.WRITE, sentence, environment)
    if membership.user.session_epoch != attempt.epoch:
        raise Forbidden(sentence)


def _refused(attempt: _Try, claim: str, refused: sts.StsRefused) -> NoReturn:
    answer = refused.answer
    outcome = Outcome.UNANSWERED if answer in sts_answers.UNANSWERED else Outcome.REFUSED
    _unclaim(attempt.phase.id, claim)
    _record(attempt, outcome if refused.sent else Outcome.STOPPED, answer, refused)
    db.session.commit()
    # Of a place that they may not know any more, nobody reads how it stands there.
    _require_person(attempt, _ACCESS_ENDED)
    raise CodeRejected(answer.reason, f"{answer.sentence} {refused.more}".strip())


def _stop(attempt: _Try, answer: Answer, more: str = "", *, waiting: int | None = None) -> NoReturn:
    """Refuse before AWS is asked; the attempt is kept all the same."""
    _record(attempt, Outcome.STOPPED, answer)
    db.session.commit()
    raise CodeRejected(answer.reason, f"{answer.sentence} {more}".strip(), waiting=waiting)


def _record(
    attempt: _Try,
    outcome: Outcome,
    answer: Answer | None,
    refused: sts.StsRefused | None = None,
    expires_at: datetime | None = None,
) -> None:
    """Add the append-only row and its audit event to the session. The code is in neither."""
    reason = answer.reason if answer else "accepted"
    row = MfaAttempt(
        phase_id=attempt.phase.id,
        user_id=attempt.user.id,
        serial=attempt.serial,
        at=clock.now(),
        outcome=outcome,
        reason=reason,
        aws_code=refused.aws_code if refused else "",
        aws_message=refused.aws_message if refused else "",
        caller_arn=refused.caller_arn if refused else None,
        session_expires_at=expires_at,
    )
    db.session.add(row)
    audit.record(
        "run.authenticate",
        attempt.user,
        run=attempt.run,
        phase=attempt.phase.kind.value,
        device=attempt.serial,
        outcome=outcome.value,
        reason=reason,
    )


def _remember_used(serial: str, code: str) -> None:
    """For 90 s a keyed digest of device and code stays in Redis; AWS itself refuses the code without it, too."""
    try:
        connection().set(_used_key(serial, code), b"1", ex=int(mfa.CODE_LIFETIME.total_seconds()))
    except RedisError:
        return


def _used_key(serial: str, code: str) -> str:
    secret = _config().secret_key.encode()
    return "lockstep:used:" + hmac.new(secret, f"{serial}\0{code}".encode(), hashlib.sha256).hexdigest()


def _config() -> Config:
    config: Config = current_app.config["LOCKSTEP"]
    return config
