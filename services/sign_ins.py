"""Signed-in browsers: begun, recognized on every request, listed, ended.

The cookie holds 32 random bytes, so that their SHA-256 can be stored as it is: there is nothing to guess, and checking
one costs one indexed read.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import has_request_context, request
from sqlalchemy import Row, delete, select, update

from extensions import db
from models import SignIn, User
from services import audit, clock
from services.compare_and_set import won
from services.errors import Conflict, NotFound
from services.storage.sqlite import read_only

#: A browser that was not seen for so long is signed out; no cookie lives longer.
IDLE = timedelta(days=7)
#: For so long after a proof the password is not asked again before administration.
PROOF = timedelta(minutes=15)
_SEEN_EVERY = timedelta(minutes=1)
#: Rows of sessions that ended tell from where somebody signed in; services/throttle.py asks.
KEPT = timedelta(days=30)


_OVERTAKEN = (
    "At this moment the password was changed, or you were signed out everywhere. Nobody was signed in. Sign in again."
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody who showed who they are, and the epoch of their sessions when that was looked at.

    Whatever signs the person out everywhere in the meantime, a new password above all, also ends this.
    """

    user: User
    epoch: int


def begin(arrival: Arrival, how: str) -> str:
    """Keep that the person signed in with this browser now, and commit.

    Returns the identifier for its cookie, ``"user.epoch.secret"``. Raises :class:`Conflict` for who was signed out
    everywhere since the arrival. ``how`` is for the audit log ("password", "single sign-on" …); "" when a session only
    goes on under a new secret.
    """
    user_id, epoch = arrival.user.id, arrival.epoch
    with _writing():
        # Held until the commit: `expel` comes before, and is seen here, or after, and ends the row.
        same = select(User).where(User.id == user_id, User.session_epoch == epoch)
        user = db.session.scalar(same.execution_options(populate_existing=True).with_for_update(key_share=True))
        if user is None:
            db.session.rollback()
            raise Conflict(_OVERTAKEN)
        return f"{user_id}.{epoch}.{_kept(user, how)}"


def _kept(user: User, how: str) -> str:
    token, now, user_id = secrets.token_urlsafe(32), clock.now(), user.id
    here = has_request_context()
    db.session.execute(delete(SignIn).where(SignIn.user_id == user_id, SignIn.seen_at < now - KEPT))
    db.session.add(
        SignIn(
            user_id=user_id,
            digest=digest(token),
            created_at=now,
            seen_at=now,
            proved_at=now,
            address=((request.remote_addr or "") if here else "")[:64],
            agent=(request.user_agent.string if here else "")[:200],
        )
    )
    if how:
        audit.record("session.sign_in", user, user=user.name, how=how)
    db.session.commit()
    return token


def recognize(identifier: str) -> SignIn | None:
    """The sign-in of a session identifier ``"user.epoch.secret"``; None when it was ended meanwhile."""
    parts = parse(identifier)
    if parts is None:
        return None
    user_id, epoch, token = parts
    query = select(SignIn.id, SignIn.seen_at).join(User, User.id == SignIn.user_id)
    found = db.session.execute(
        query.where(
            SignIn.digest == digest(token),
            SignIn.user_id == user_id,
            SignIn.ended_at.is_(None),
            SignIn.seen_at > clock.now() - IDLE,
            User.session_epoch == epoch,
        )
    ).one_or_none()
    if found is None:
        return None
    _seen(found)
    return db.session.get(SignIn, found.id)


def parse(identifier: str) -> tuple[int, int, str] | None:
    """User, epoch and secret of a session identifier; None for anything else."""
    number, _, rest = identifier.partition(".")
    epoch, _, token = rest.partition(".")
    good = number.isascii() and number.isdecimal() and epoch.isascii() and epoch.isdecimal() and token
    return (int(number), int(epoch), token) if good and len(number) < 19 and len(epoch) < 19 else None


def of(user: User) -> list[SignIn]:
    """Where the person is signed in, the one seen last first."""
    query = select(SignIn).where(
        SignIn.user_id == user.id, SignIn.ended_at.is_(None), SignIn.seen_at > clock.now() - IDLE
    )
    return list(db.session.scalars(query.order_by(SignIn.seen_at.desc(), SignIn.id.desc())))


def end(user: User, number: int, action: str = "session.revoked") -> SignIn:
    """End one of the person's own sessions, and commit. Raises :class:`NotFound`, :class:`Conflict`."""
    found = db.session.scalar(select(SignIn).where(SignIn.id == number, SignIn.user_id == user.id))
    if found is None:
        raise NotFound("No such session.")
    statement = update(SignIn).where(SignIn.id == number, SignIn.ended_at.is_(None))
    if not won(statement.values(ended_at=clock.now())):
        raise Conflict("That session had ended before. Nothing was changed.")
    audit.record(action, user, user=user.name, address_of_session=found.address)
    db.session.commit()
    return found


def end_everywhere(user: User) -> None:
    """Sign the person out of every browser, this one included, and commit."""
    expel(user)
    audit.record("session.revoked", user, user=user.name, everywhere=True)
    db.session.commit()


def operator_end(user: User) -> None:
    """As :func:`end_everywhere`, for an operator's command."""
    expel(user)
    audit.record("session.revoked", None, user=user.name, everywhere=True)
    db.session.commit()


def expel(user: User) -> None:
    """End every session of a person. The caller records and commits.

    The rows tell the person what ended. The epoch also ends a sign-in that is under way at this moment: it goes first,
    so that `begin` has either committed its row, which is ended here, or finds another epoch than it arrived with.
    """
    db.session.execute(update(User).where(User.id == user.id).values(session_epoch=User.session_epoch + 1))
    db.session.execute(
        update(SignIn).where(SignIn.user_id == user.id, SignIn.ended_at.is_(None)).values(ended_at=clock.now())
    )


def proved(sign_in: SignIn) -> None:
    """Keep that the person gave the password again now, and commit. Raises :class:`Conflict` for an ended session."""
    here = update(SignIn).where(SignIn.id == sign_in.id, SignIn.ended_at.is_(None))
    if not won(here.values(proved_at=clock.now())):
        db.session.rollback()
        raise Conflict("You were signed out at this moment. Nothing was changed; sign in again.")
    audit.record("session.proved", sign_in.user, user=sign_in.user.name)
    db.session.commit()


def is_proved(sign_in: SignIn) -> bool:
    """Whether the password was given lately enough for administration."""
    return clock.now() - sign_in.proved_at < PROOF


def digest(token: str) -> str:
    """What is stored of the secret of a cookie."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _seen(found: Row[int, datetime]) -> None:
    """Keep when the browser was last seen, at most once a minute; commits then. Also in requests that only read."""
    now = clock.now()
    busy = db.session.new or db.session.dirty or db.session.deleted
    if busy or now - found.seen_at < _SEEN_EVERY:
        return
    with _writing():
        db.session.execute(update(SignIn).where(SignIn.id == found.id, SignIn.seen_at < now).values(seen_at=now))
        db.session.commit()


@contextmanager
def _writing() -> Iterator[None]:
    """A transaction of its own that writes, also in a request that only reads. The caller commits."""
    db.session.rollback()
    reading = read_only.get()
    read_only.set(False)
    try:
        yield
    finally:
        read_only.set(reading)
