"""The second factor: time-based codes (RFC 6238) of an authenticator, and recovery codes in their place.

The secret is encrypted, bound to its row. A step of 30 s whose code was taken is never taken again.
"""

from __future__ import annotations

import hmac
import secrets

import pyotp
from flask import current_app
from sqlalchemy import delete, func, or_, select, update
from werkzeug.security import check_password_hash, generate_password_hash

from extensions import db
from models import Membership, Organization, RecoveryCode, User
from policy.permissions import Permission
from services import access, audit, clock, throttle
from services.compare_and_set import won
from services.errors import Conflict, Invalid
from services.storage.vault import Vault, VaultError

ISSUER = "Lockstep"
#: How many recovery codes a person has, of how many characters: 50 bits each.
CODES = 10
_CODE_LENGTH = 10
_ALPHABET = "abcdefghjkmnpqrstuvwxyz234567890"  # no i, l, o, 1
_STEP = 30
#: Ten are tried at a sign-in; behind 50 random bits a hundredth of the work that a password needs is plenty.
_METHOD = "scrypt:2048:8:1"
WRONG = "That code is not right, or it was used before. Nothing was changed."
UNREADABLE = (
    "A code of your authenticator cannot be checked: the key that its secret was encrypted with is gone. Give one of "
    "your recovery codes that was not used yet, or ask an owner of your organization, or whoever runs Lockstep, to "
    "take your second factor off. Nothing was changed."
)


def begin(user: User) -> None:
    """Make a new secret, in force only once a code of it was given; commits. Raises :class:`Conflict`."""
    sealed = _vault().encrypt(pyotp.random_base32().encode(), _context(user.id))
    if not won(update(User).where(User.id == user.id, User.totp_at.is_(None)).values(totp_secret=sealed)):
        raise Conflict("The second factor is set up already. Nothing was changed.")
    audit.record("second_factor.begin", user, user=user.name)
    db.session.commit()


def secret(user: User) -> str | None:
    """The secret that waits for its first code, in base32; None when there is none that can be read, or one is in
    force.
    """
    return _open(user) if user.totp_secret is not None and user.totp_at is None else None


def address(user: User) -> str:
    """What the QR code holds: an otpauth address with the waiting secret."""
    return pyotp.TOTP(secret(user) or "").provisioning_uri(name=user.name, issuer_name=ISSUER)


def confirm(user: User, code: str) -> list[str]:
    """Put the waiting secret in force by a code of it, and commit. Returns the recovery codes, which are nowhere else.

    Raises :class:`Invalid` for field "code", :class:`throttle.Throttled`.
    """
    user_id, sealed, text = user.id, user.totp_secret, secret(user)
    tries = throttle.of_person("code", user_id)
    throttle.take(tries)
    step = _step(text, code) if text is not None else None
    if step is None:
        raise Invalid("code", "That code is not right. Check the clock of your telephone. Nothing was changed.")
    texts = _new_codes()
    waits = (User.id == user_id, User.totp_at.is_(None), User.totp_secret == sealed)
    if not won(update(User).where(*waits).values(totp_at=clock.now(), totp_step=step)):
        db.session.rollback()
        raise Conflict("The second factor was changed at this moment. Look at it again.")
    _keep(user_id, texts)
    audit.record("second_factor.on", user, user=user.name)
    db.session.commit()
    throttle.clear(tries)
    return list(texts)


def check(user: User, code: str) -> str | None:
    """Use up a code: "code" or "recovery code" when it was good, None when not. Commits.

    Where the secret cannot be read, recovery codes alone are good, which need no key. Raises
    :class:`throttle.Throttled`, and :class:`Invalid` for field "code" where a code of the authenticator might be meant.
    """
    user_id, text = user.id, _open(user)
    tries, address = throttle.of_person("code", user_id), throttle.of_address()
    throttle.take(tries, address)
    how = "code" if _use_step(user_id, text, code) else "recovery code" if _use_recovery(user_id, code) else None
    if how is None:
        audit.record("second_factor.refused", None, user=user.name)
        db.session.commit()
        if text is None:
            raise Invalid("code", UNREADABLE)
        return None
    if how == "recovery code":
        audit.record("second_factor.recovery", user, user=user.name, left=left(user))
    db.session.commit()
    throttle.clear(tries)
    throttle.give_back(address)
    return how


def left(user: User) -> int:
    """How many recovery codes were not used yet."""
    unused = select(func.count(RecoveryCode.id)).where(RecoveryCode.user_id == user.id, RecoveryCode.used_at.is_(None))
    return db.session.scalar(unused) or 0


def renew_codes(user: User, code: str) -> list[str]:
    """New recovery codes in place of all former ones, and commit. Raises :class:`Invalid` for field "code"."""
    _demand(user, code)
    texts = _new_codes()
    _keep(user.id, texts)
    audit.record("second_factor.codes", user, user=user.name)
    db.session.commit()
    return list(texts)


def turn_off(user: User, code: str) -> None:
    """Take the person's second factor away, for a code, and commit. Raises :class:`Invalid` for field "code"."""
    _demand(user, code)
    _remove(user)
    audit.record("second_factor.off", user, user=user.name)
    db.session.commit()


def operator_reset(user: User) -> None:
    """Take the second factor of somebody away who lost it, and commit: for `flask user`."""
    _remove(user)
    audit.record("second_factor.reset", None, user=user.name)
    db.session.commit()


def unreadable() -> list[str]:
    """The names of those whose second factor is in force, and whose secret the present keys do not open."""
    users = db.session.scalars(select(User).where(User.totp_at.is_not(None)).order_by(User.name))
    return [user.name for user in users if _open(user) is None]


def requiring(user: User) -> list[Membership]:
    """The person's memberships in organizations that require a second factor."""
    query = select(Membership).join(Organization).where(
        Membership.user_id == user.id, Organization.second_factor_required
    )  # fmt: skip
    return list(db.session.scalars(query.order_by(Organization.name)))


def require(by: Membership, required: bool) -> None:
    """Say whether everybody in the organization needs a second factor, and commit.

    Raises :class:`services.errors.Forbidden`, :class:`Conflict`.
    """
    access.require(by, Permission.MANAGE_MEMBERS, "Only owners say how people sign in. Nothing was changed.")
    if required and by.user.totp_at is None:
        raise Conflict("Set up your own second factor first. Nothing was changed.")
    here = update(Organization).where(
        Organization.id == by.organization_id, Organization.second_factor_required.is_(not required)
    )
    if won(here.values(second_factor_required=required)):
        audit.record(
            "second_factor.require", by.user, organization=by.organization, before=not required, after=required
        )
    db.session.commit()


def reset(by: Membership, user: User) -> None:
    """Take away the second factor of somebody whom ``by`` may help (services/links.py asks that), and commit."""
    if user.totp_at is None:
        raise Conflict(f"{user.name} has no second factor. Nothing was changed.")
    _remove(user)
    audit.record("second_factor.reset", by.user, organization=by.organization, user=user.name)
    db.session.commit()


def _remove(user: User) -> None:
    db.session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
    values = {"totp_secret": None, "totp_at": None, "totp_step": None}
    db.session.execute(update(User).where(User.id == user.id).values(values))


def _demand(user: User, code: str) -> None:
    if user.totp_at is None or check(user, code) is None:
        raise Invalid("code", WRONG)


def _use_step(user_id: int, text: str | None, code: str) -> bool:
    step = _step(text, code) if text is not None else None
    if step is None:
        return False
    newer = or_(User.totp_step.is_(None), User.totp_step < step)
    return won(update(User).where(User.id == user_id, User.totp_at.is_not(None), newer).values(totp_step=step))


def _step(text: str, code: str) -> int | None:
    """The step of 30 s that the code belongs to: this one, or one beside it for clocks that differ."""
    typed = "".join(code.split())
    if len(typed) != 6 or not (typed.isascii() and typed.isdecimal()):
        return None
    now = int(clock.now().timestamp()) // _STEP
    generator = pyotp.TOTP(text)
    return next((n for n in (now, now - 1, now + 1) if hmac.compare_digest(generator.at(n * _STEP), typed)), None)


def _use_recovery(user_id: int, code: str) -> bool:
    typed = "".join(code.lower().split()).replace("-", "")
    if len(typed) != _CODE_LENGTH or typed.isdecimal():
        return False
    unused = (RecoveryCode.user_id == user_id, RecoveryCode.used_at.is_(None))
    rows = db.session.execute(select(RecoveryCode.id, RecoveryCode.digest).where(*unused)).all()
    db.session.rollback()
    found = next((row.id for row in rows if check_password_hash(row.digest, typed)), None)
    return found is not None and won(
        update(RecoveryCode).where(RecoveryCode.id == found, *unused).values(used_at=clock.now())
    )


def _new_codes() -> dict[str, str]:
    """Fresh codes and their digests, computed while no transaction is open."""
    db.session.rollback()
    texts = ["".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LENGTH)) for _ in range(CODES)]
    return {f"{text[:5]}-{text[5:]}": generate_password_hash(text, method=_METHOD) for text in texts}


def _keep(user_id: int, texts: dict[str, str]) -> None:
    db.session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    db.session.add_all(RecoveryCode(user_id=user_id, digest=digest) for digest in texts.values())


def _open(user: User) -> str | None:
    """The secret; None where the present keys do not open it."""
    try:
        return _vault().decrypt(user.totp_secret or b"", _context(user.id)).decode()
    except VaultError:
        return None


def _context(user_id: int) -> str:
    return f"user_account.totp_secret:{user_id}"  # as services/storage names a place


def _vault() -> Vault:
    vault: Vault = current_app.config["LOCKSTEP"].vault
    return vault
