"""The first owner of an empty installation, made through a one-time link that only the operator's terminal shows."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from sqlalchemy import func, select

from extensions import db
from models import User
from services import accounts, organizations
from services.errors import NotFound
from services.sign_ins import Arrival

_USED = "This link has been used or was never given."


def is_empty() -> bool:
    """Whether no account exists yet."""
    return not db.session.scalar(select(func.count()).select_from(User))


def issue_token(home: Path) -> str:
    """A new token for ``/setup/<token>``; the former one ends. Only its SHA-256 is kept, mode 0600."""
    token = secrets.token_urlsafe(24)
    _keep(home, token)
    return token


def check_token(home: Path, token: str) -> None:
    """Raise :class:`NotFound` unless this is the token and no account exists."""
    path = home / "setup_token"
    expected = path.read_text() if path.exists() else ""
    if not expected or not hmac.compare_digest(expected, _digest(token)) or not is_empty():
        raise NotFound(_USED)


def make_first_owner(home: Path, token: str, *, name: str, email: str, password: str, organization: str) -> Arrival:
    """Make the account and its organization in one commit, and end the token.

    Of two at once the one that removes the token's file wins. Raises :class:`NotFound` for a wrong or used token,
    :class:`services.errors.Invalid` for a field.
    """
    check_token(home, token)
    user = accounts.add_user(name, email, password, organization)
    arrival = Arrival(user, user.session_epoch)
    organizations.add_organization(organization, user)
    try:
        (home / "setup_token").unlink()
    except FileNotFoundError:
        db.session.rollback()
        raise NotFound(_USED) from None
    try:
        db.session.commit()
    except BaseException:
        _keep(home, token)
        raise
    return arrival


def _keep(home: Path, token: str) -> None:
    handle = os.open(home / "setup_token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(_digest(token))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
