"""A personal token for the interface that terraform's http backend speaks to."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.user import User


class TokenScope(StrEnum):
    """What a token may do, within what its person may."""

    READ = "read"
    QUEUE = "queue"


class ApiToken(Base):
    """``digest`` is the SHA-256 (hex) of the whole token, which is shown once and stored nowhere.

    ``start`` are its first characters, by which its person tells it from others.
    """

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    start: Mapped[str] = mapped_column(String(12))
    scope: Mapped[TokenScope] = mapped_column(words(TokenScope, "token_scope"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="joined")
