"""Single sign-on with OpenID Connect: whose account it is that a provider vouches for.

Who somebody is, is the pair of issuer and subject. E-mail addresses bind nothing: providers let people choose them.
The way to the provider and back is `openid.py`, which is loaded when somebody takes it first.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from config import Config
from extensions import db
from models import User
from services import audit
from services.compare_and_set import won
from services.errors import Conflict, LockstepError
from services.sign_ins import Arrival


class SignOnFailed(LockstepError):
    """The provider did not say who it is, or what it said does not hold. Nobody was signed in."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One way to the provider and back. ``again``: the person has to prove there anew who they are."""

    address: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the provider vouches for; ``name`` and ``email`` are suggestions for a form and nothing else."""

    issuer: str
    subject: str
    name: str
    email: str


def begin(back: str, *, again: bool = False) -> Journey:
    """Where to send the browser, and what to keep until it is back at ``back``. Raises :class:`SignOnFailed`."""
    from services import openid

    return openid.begin(back, again=again)


def finish(journey: Journey, back: str, code: str, *, again: bool = False) -> Identity:
    """Trade the code for the provider's word and check it. Raises :class:`SignOnFailed`."""
    from services import openid

    return openid.finish(journey, back, code, again=again)


def person(identity: Identity) -> Arrival | None:
    """Whose account is connected with it."""
    user = db.session.scalar(
        select(User).where(User.oidc_issuer == identity.issuer, User.oidc_subject == identity.subject)
    )
    return Arrival(user, user.session_epoch) if user is not None else None


def is_of(user: User, identity: Identity) -> bool:
    """Whether it is this person's."""
    return (user.oidc_issuer, user.oidc_subject) == (identity.issuer, identity.subject)


def bind(user: User, identity: Identity) -> None:
    """Connect an account. The caller commits. Raises :class:`Conflict`, having rolled back."""
    values = {"oidc_issuer": identity.issuer, "oidc_subject": identity.subject}
    try:
        bound = won(update(User).where(User.id == user.id, User.oidc_subject.is_(None)).values(values))
    except IntegrityError:
        bound = False
    if not bound:
        db.session.rollback()
        raise Conflict("One of the two is connected with another account already. Nothing was changed.")
    audit.record("single_sign_on.connect", user, user=user.name, issuer=identity.issuer)


def connect(user: User, identity: Identity) -> None:
    """As :func:`bind`, and commit."""
    bind(user, identity)
    db.session.commit()


def disconnect(user: User) -> None:
    """Take the connection away, and commit. Raises :class:`Conflict` for whom that would lock out."""
    if not user.password_hash or not _settings().password_sign_in:
        raise Conflict("You could not sign in any more. Nothing was changed.")
    db.session.execute(update(User).where(User.id == user.id).values(oidc_issuer=None, oidc_subject=None))
    audit.record("single_sign_on.disconnect", user, user=user.name)
    db.session.commit()


def _settings() -> Config:
    found: Config = current_app.config["LOCKSTEP"]
    return found
