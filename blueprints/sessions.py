"""Beginning a signed-in session; shared by the sign-in form and the set-up page."""

from __future__ import annotations

from flask import session
from flask_login import login_user

from models import User


def begin_session(user: User, *, remember: bool = False) -> None:
    """Sign in with a fresh session: nothing of an earlier one, its form tokens included, is carried over."""
    session.clear()
    login_user(user, remember=remember)
