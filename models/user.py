"""A person."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class User(Base):
    """A person who signs in. ``session_epoch`` is part of every session: raising it signs the person out everywhere.

    ``password_hash`` is "" for somebody who signs in by single sign-on alone, whom ``oidc_issuer`` and ``oidc_subject``
    name. ``totp_secret`` (encrypted) is the second factor's, in force from ``totp_at`` on; ``totp_step`` is the last
    30 s step whose code was taken, so that none is taken twice.
    """

    __tablename__ = "user_account"
    __table_args__ = (UniqueConstraint("oidc_issuer", "oidc_subject"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str] = mapped_column(String(254))
    password_hash: Mapped[str] = mapped_column(String(300))
    session_epoch: Mapped[int] = mapped_column(default=0)
    totp_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    totp_at: Mapped[datetime | None]
    totp_step: Mapped[int | None] = mapped_column(BigInteger)
    oidc_issuer: Mapped[str | None] = mapped_column(String(300))
    oidc_subject: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]

    # What Flask-Login asks of a person. Only loaded from a session that is good, so always signed in.
    is_authenticated = True
    is_active = True
    is_anonymous = False

    #: The session that the person came with, as "user.epoch.secret" (services/sign_ins.py); in no column.
    session_identifier = ""

    def get_id(self) -> str:
        """What Flask-Login keeps in the session."""
        return self.session_identifier
