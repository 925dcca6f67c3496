"""People: making accounts and checking passwords.

A password takes scrypt tens of milliseconds. No transaction is open meanwhile: on SQLite everybody would wait.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import IntegrityError
from werkzeug.security import check_password_hash, generate_password_hash

from extensions import db
from models import OneTimeLink, SignIn, User
from policy import passwords
from services import audit, clock, organizations, sign_ins, throttle
from services.compare_and_set import won
from services.errors import Invalid, NotFound
from services.sign_ins import Arrival

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
LEAST_PASSWORD = passwords.LEAST
MOST_PASSWORD = passwords.MOST


def create_user(name: str, email: str, password: str) -> User:
    """Make an account and commit.

    ``name`` is lower case letters, digits, dot, dash, underscore. Raises :class:`Invalid` for field "name", "email"
    or "password".
    """
    user = add_user(name, email, password)
    db.session.commit()
    return user


def add_user(name: str, email: str, password: str | None, *about: str) -> User:
    """As :func:`create_user`, without the commit: for use cases that make more than an account.

    ``about`` are further names that the password must not be made of; None instead of a password is for somebody who
    signs in by single sign-on alone. This comes first in them, because it ends the transaction that is open.
    """
    if not NAME.fullmatch(name):
        raise Invalid("name", "A user name has lower case letters, digits, dots, dashes and underscores, at most 64.")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or len(email) > 254:
        raise Invalid("email", "That is not an e-mail address.")
    if password is not None:
        check_new_password(password, name, email, *about)
    db.session.rollback()
    hashed = _hash(password) if password is not None else ""
    user = User(name=name, email=email, password_hash=hashed, created_at=clock.now())
    db.session.add(user)
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise Invalid("name", f"The user name {name} is taken.") from None
    audit.record("user.create", None, user=name)
    return user


def check_new_password(password: str, *about: str) -> None:
    """Raise :class:`Invalid` for field "password" where policy/passwords.py refuses it; ``about``: their names."""
    problem = passwords.problem(password, about)
    if problem is not None:
        raise Invalid("password", problem)


def sign_in(name: str, password: str) -> Arrival | None:
    """As :func:`authenticate`, slowed down after failures, which are recorded. Raises :class:`throttle.Throttled`."""
    account, address = throttle.of_account(name), throttle.of_address()
    throttle.take(account, address)
    arrival = authenticate(name, password)
    if arrival is None:
        record_refusal(name)
        return None
    throttle.clear(account)
    throttle.give_back(address)
    return arrival


def authenticate(name: str, password: str) -> Arrival | None:
    """The person with this name and password, or None. The epoch is the one that the password had when it was read.

    An unknown name costs the same scrypt computation as a known one, so that the time tells nothing.
    """
    query = select(User.id, User.password_hash, User.session_epoch).where(User.name == name)
    found = db.session.execute(query).one_or_none()
    db.session.rollback()
    stored = found.password_hash if found else ""  # also "" for who signs in by single sign-on alone
    matches = check_password_hash(stored or _nobody(), password[:MOST_PASSWORD]) and bool(stored)
    user = db.session.get(User, found.id) if found is not None and matches else None
    return Arrival(user, found.session_epoch) if found is not None and user is not None else None


def waiting(user_id: int, epoch: int) -> Arrival | None:
    """Somebody between password and code; None when the password or the second factor was changed meanwhile."""
    user = db.session.get(User, user_id)
    good = user is not None and user.session_epoch == epoch and user.totp_at is not None
    return Arrival(user, epoch) if user is not None and good else None


def record_refusal(name: str) -> None:
    """Keep a failed sign-in in the audit log, and commit.

    ``name`` is what was typed. It is kept only when an account has it: it may be a password in the wrong field.
    """
    known = db.session.scalar(select(User.name).where(User.name == name))
    told: dict[str, Any] = {"user": known} if known else {}
    audit.record("session.refused", None, **told)
    db.session.commit()


def hash_new(user: User, password: str) -> str:
    """What to store of a new password, computed while no transaction is open.

    Raises :class:`Invalid` for field "password".
    """
    about = (user.name, user.email, *(one.organization.name for one in organizations.memberships(user)))
    check_new_password(password, *about)
    db.session.rollback()
    return _hash(password)


def by_name(name: str) -> User:
    """The person for an operator's command. Raises :class:`NotFound`."""
    user = db.session.scalar(select(User).where(User.name == name))
    if user is None:
        raise NotFound(f"There is no user {name}.")
    return user


def operator_password(user: User, password: str) -> None:
    """Set somebody's password for an operator's command, end every link to a new one, sign them out everywhere, commit.

    Raises :class:`Invalid`.
    """
    user_id, hashed = user.id, hash_new(user, password)
    end_resets(OneTimeLink.user_id == user_id)
    db.session.execute(update(User).where(User.id == user_id).values(password_hash=hashed))
    user = db.session.get_one(User, user_id)
    sign_ins.expel(user)
    audit.record("user.password", None, user=user.name, how="operator")
    db.session.commit()


def end_resets(*which: ColumnElement[bool]) -> None:
    """End those links to a new password that can still be used. The caller commits.

    Before the person's row is changed, as by such a link itself: two in the other order would wait for each other.
    """
    db.session.execute(update(OneTimeLink).where(*which, *open_links()).values(revoked_at=clock.now()))


def open_links() -> tuple[ColumnElement[bool], ...]:
    """In SQL: of one-time links, those that can still be used."""
    return (OneTimeLink.used_at.is_(None), OneTimeLink.revoked_at.is_(None), OneTimeLink.expires_at > clock.now())


def prove(sign_in: SignIn, password: str) -> None:
    """Check the password of somebody who is signed in, keep that it was given now, commit.

    Raises :class:`Invalid` for field "password", :class:`throttle.Throttled`, :class:`services.errors.Conflict` for a
    session that was ended meanwhile.
    """
    number = sign_in.id
    check_own_password(sign_in.user, password)
    sign_ins.proved(db.session.get_one(SignIn, number))


def check_own_password(user: User, password: str) -> None:
    """Raise :class:`Invalid` for field "password" unless it is this person's; :class:`throttle.Throttled`."""
    user_id, stored, tries = user.id, user.password_hash, throttle.of_person("password", user.id)
    throttle.take(tries)
    matches = check_password_hash(stored or _nobody(), password[:MOST_PASSWORD]) and bool(stored)
    # Asked again: it may have been replaced while it was computed.
    if not matches or db.session.scalar(select(User.password_hash).where(User.id == user_id)) != stored:
        raise Invalid("password", "That is not your password. Nothing was changed.")
    throttle.clear(tries)


def change_password(user: User, current: str, new: str) -> Arrival:
    """Replace the password, end every link to a new one, sign the person out everywhere, commit.

    What is returned begins a session anew.

    Raises :class:`Invalid`, :class:`throttle.Throttled`.
    """
    user_id, stored, epoch = user.id, user.password_hash, user.session_epoch
    about = (user.name, user.email, *(one.organization.name for one in organizations.memberships(user)))
    tries = throttle.of_person("password", user_id)
    throttle.take(tries)
    if not check_password_hash(stored, current[:MOST_PASSWORD]):
        raise Invalid("current", "That is not your present password. Nothing was changed.")
    throttle.clear(tries)
    check_new_password(new, *about)
    values = {"password_hash": _hash(new)}
    end_resets(OneTimeLink.user_id == user_id)
    same = (User.id == user_id, User.password_hash == stored, User.session_epoch == epoch)
    if not won(update(User).where(*same).values(values)):
        db.session.rollback()
        sentence = "That is not your present password any more, or you were signed out at this moment."
        raise Invalid("current", f"{sentence} Nothing was changed.")
    sign_ins.expel(user)
    audit.record("user.password", user)
    db.session.commit()
    return Arrival(user, epoch + 1)


def _hash(password: str) -> str:
    return generate_password_hash(password, method="scrypt")


@cache
def _nobody() -> str:
    return _hash("no account has this password")
