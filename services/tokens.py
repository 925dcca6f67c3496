"""Personal API tokens: made, shown once, recognized, revoked.

A token is 32 random bytes, so that its SHA-256 can be stored as it is: there is nothing to guess, and checking one
costs one indexed read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import cast

from sqlalchemy import CursorResult, func, or_, select, update

from extensions import db
from models import ApiToken, TokenScope, User
from services import audit, clock
from services.compare_and_set import won
from services.errors import Conflict, Invalid, NotFound
from services.storage.sqlite import read_only

PREFIX = "lsp_"
#: Days until a token expires, None for never.
LIFETIMES: tuple[int | None, ...] = (30, 90, 365, None)
MOST_TOKENS = 50
_START = 10
_USED_EVERY = timedelta(minutes=1)


def create(user: User, name: str, scope: TokenScope, days: int | None) -> tuple[ApiToken, str]:
    """Make a token and commit. The second is the token itself, which is nowhere else.

    Raises :class:`Invalid` for field "name" or "days".
    """
    name = " ".join(name.split())
    if not 0 < len(name) <= 64:
        raise Invalid("name", "Give it a name of at most 64 characters, to know it by when you revoke it.")
    if days not in LIFETIMES:
        raise Invalid("days", "Choose one of the four.")
    alive = select(func.count(ApiToken.id)).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
    if (db.session.scalar(alive) or 0) >= MOST_TOKENS:
        raise Invalid("name", f"You have {MOST_TOKENS} tokens. Revoke one that you no longer use.")
    text, now = PREFIX + secrets.token_urlsafe(32), clock.now()
    token = ApiToken(
        user_id=user.id,
        name=name,
        digest=_digest(text),
        start=text[:_START],
        scope=scope,
        created_at=now,
        expires_at=now + timedelta(days=days) if days is not None else None,
    )
    db.session.add(token)
    audit.record("token.create", user, name=name, start=token.start, scope=scope.value, days=days)
    db.session.commit()
    return token, text


def of(user: User) -> list[ApiToken]:
    """The person's tokens that were not revoked, newest first."""
    query = select(ApiToken).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
    return list(db.session.scalars(query.order_by(ApiToken.id.desc())))


def revoke(user: User, number: int) -> ApiToken:
    """Revoke a token of the person's own, and commit. Raises :class:`NotFound`, :class:`Conflict`."""
    token = db.session.scalar(select(ApiToken).where(ApiToken.id == number, ApiToken.user_id == user.id))
    if token is None:
        raise NotFound("No such token.")
    statement = update(ApiToken).where(ApiToken.id == number, ApiToken.revoked_at.is_(None))
    if not won(statement.values(revoked_at=clock.now())):
        raise Conflict("That token was revoked before. Nothing was changed.")
    audit.record("token.revoke", user, name=token.name, start=token.start)
    db.session.commit()
    return token


def end_all(user: User) -> int:
    """Revoke every token of a person, and return how many. The caller records and commits."""
    statement = update(ApiToken).where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
    result = cast("CursorResult[None]", db.session.execute(statement.values(revoked_at=clock.now())))
    return result.rowcount


def recognize(name: str, text: str) -> ApiToken | None:
    """The token that ``text`` is, when it is the person's of this name, not revoked and not expired."""
    digest = _digest(text)
    token = db.session.scalar(select(ApiToken).where(ApiToken.digest == digest))
    if token is None or not hmac.compare_digest(token.digest, digest):
        return None
    if not hmac.compare_digest(token.user.name.encode(), name.encode("utf-8", "replace")):
        return None
    ended = token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= clock.now())
    return None if ended else token


def used(token: ApiToken) -> None:
    """Keep when it was last used, at most once a minute; commits then. Also in requests that only read."""
    now = clock.now()
    if token.last_used_at is not None and now - token.last_used_at < _USED_EVERY:
        return
    db.session.rollback()
    reading = read_only.get()
    read_only.set(False)
    older = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < now)
    db.session.execute(update(ApiToken).where(ApiToken.id == token.id, older).values(last_used_at=now))
    db.session.commit()
    read_only.set(reading)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
