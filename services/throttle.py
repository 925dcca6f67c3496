"""Slowing guesses down, by account and by address, counted in the database so that every process counts the same.

An attempt is counted before it is looked at, and given back when it was good: of a hundred guesses at the same moment
five are looked at. Nothing slow is computed for an attempt that came too early.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from flask import current_app, has_request_context, request
from sqlalchemy import delete, exists, select, update
from sqlalchemy.exc import IntegrityError

from extensions import db
from models import SignIn, Throttle, User
from policy.throttling import FREE_OF_ACCOUNT, FREE_OF_ADDRESS, WINDOW, delay
from services import clock
from services.compare_and_set import won
from services.errors import LockstepError


class Throttled(LockstepError):
    """Too many failures (429); ``waiting`` seconds until the next attempt is looked at."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"Too many failed attempts. This one was not looked at; try again in {told(waiting)}.")
        self.waiting = waiting


@dataclass(frozen=True, slots=True)
class Key:
    """What is counted, and how many failures of it cost no time."""

    text: str
    free: int


def told(seconds: int) -> str:
    """A wait in words: "1 second", "2 min 8 s"."""
    if seconds < 60:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def of_account(name: str) -> Key:
    """The account of this name, whether there is one or not.

    Who signed in to it lately from this address is counted apart, so that guesses from elsewhere keep nobody out.
    ``name`` is what was typed, perhaps a password in the wrong field: only a keyed digest is kept.
    """
    address = _address()
    at_home = select(exists().where(User.name == name, SignIn.user_id == User.id, SignIn.address == address))
    known = bool(address) and bool(db.session.scalar(at_home))
    return Key(f"account:{_keyed(name)}" + (f"@{address}" if known else ""), FREE_OF_ACCOUNT)


def of_person(what: str, user_id: int) -> Key:
    """Something that a known person tries, such as a code."""
    return Key(f"{what}:{user_id}", FREE_OF_ACCOUNT)


def of_words(what: str, typed: str) -> Key:
    """Something that was typed; only a keyed digest of it is kept."""
    return Key(f"{what}:{_keyed(typed)}", FREE_OF_ACCOUNT)


def of_address(what: str = "address") -> Key:
    """The address that the request comes from; of IPv6 its network of 64 bits, which one customer has to himself."""
    return Key(f"{what}:{_network(_address())}", FREE_OF_ADDRESS)


def take(*keys: Key) -> None:
    """Count an attempt for each key and commit; raise :class:`Throttled`, counting nothing, when one has to wait."""
    while True:
        db.session.rollback()
        waiting = _waiting(keys)
        if waiting > 0:
            db.session.rollback()
            raise Throttled(waiting)
        if all(_count(key) for key in sorted(keys, key=lambda key: key.text)):
            db.session.commit()
            return


def clear(key: Key) -> None:
    """Forget the failures: this attempt was good. Commits."""
    db.session.execute(delete(Throttle).where(Throttle.key == key.text))
    db.session.commit()


def give_back(key: Key) -> None:
    """Count the attempt that was just taken no more; earlier failures stay. Commits."""
    here = update(Throttle).where(Throttle.key == key.text, Throttle.failures > 0)
    db.session.execute(here.values(failures=Throttle.failures - 1, until=clock.now()))
    db.session.commit()


def waiting(*keys: Key) -> int:
    """Seconds until every key is free, 0 for now. Counts nothing."""
    return _waiting(keys)


def _waiting(keys: tuple[Key, ...]) -> int:
    query = select(Throttle.until).where(Throttle.key.in_([key.text for key in keys]))
    left = [(until - clock.now()).total_seconds() for until in db.session.scalars(query)]
    # A moment that is in the next second is told as a whole one: who comes back then is let in.
    return max((int(seconds) + 1 for seconds in left if seconds > 0), default=0)


def _count(key: Key) -> bool:
    """One more; False when somebody else counted at the same moment, and all is to be looked at again.

    Also when what was counted since the look means waiting: PostgreSQL shows each statement what is committed then.
    """
    now = clock.now()
    row = db.session.execute(
        select(Throttle.failures, Throttle.last_at, Throttle.until).where(Throttle.key == key.text)
    ).one_or_none()
    if row is None:
        db.session.execute(delete(Throttle).where(Throttle.last_at < now - 4 * WINDOW))
        db.session.add(Throttle(key=key.text, failures=1, last_at=now, until=now + delay(1, key.free)))
        try:
            db.session.flush()
        except IntegrityError:
            return False
        return True
    if row.until > now:
        return False
    failures = (row.failures if now - row.last_at < WINDOW else 0) + 1
    same = (Throttle.failures == row.failures, Throttle.last_at == row.last_at, Throttle.until == row.until)
    values = {"failures": failures, "last_at": now, "until": now + delay(failures, key.free)}
    return won(update(Throttle).where(Throttle.key == key.text, *same).values(values))


def _keyed(text: str) -> str:
    secret = str(current_app.config["SECRET_KEY"]).encode()
    return hashlib.blake2b(text.encode("utf-8", "replace"), key=secret[:64], digest_size=16).hexdigest()


def _address() -> str:
    return ((request.remote_addr or "") if has_request_context() else "")[:64]


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
