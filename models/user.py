"""A person."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class User(Base):
    """A person who signs in. ``session_epoch`` is part of every session: raising it signs the person out everywhere."""

    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str] = mapped_column(String(254))
    password_hash: Mapped[str] = mapped_column(String(300))
    session_epoch: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]

    # What Flask-Login asks of a person. Only loaded from a session that is good, so always signed in.
    is_authenticated = True
    is_active = True
    is_anonymous = False

    def get_id(self) -> str:
        """What Flask-Login keeps in the session."""
        return f"{self.id}.{self.session_epoch}"
