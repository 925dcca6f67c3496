"""How people get in: their sessions, recovery codes, one-time links, and how often a sign-in failed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.organization import Organization
from models.user import User
from policy.permissions import Role


class SignIn(Base):
    """A signed-in browser. Its cookie holds ``token``, of which ``digest`` is the SHA-256 (hex).

    ``proved_at`` is when the password (or the single sign-on) was last given, which administration asks for anew.
    """

    __tablename__ = "sign_in"
    __table_args__ = (Index("ix_sign_in_user_id_ended_at", "user_id", "ended_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    proved_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    address: Mapped[str] = mapped_column(String(64), default="")
    agent: Mapped[str] = mapped_column(String(200), default="")

    user: Mapped[User] = relationship(lazy="joined")


class RecoveryCode(Base):
    """One of the codes that replace the second factor once. ``digest`` is a slow hash."""

    __tablename__ = "recovery_code"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    digest: Mapped[str] = mapped_column(String(300))
    used_at: Mapped[datetime | None]


class LinkKind(StrEnum):
    """What a one-time link is good for."""

    INVITATION = "invitation"
    PASSWORD_RESET = "password_reset"  # noqa: S105 (a word)


class OneTimeLink(Base):
    """``digest`` is the SHA-256 (hex) of the link's secret part. An invitation has ``organization`` and ``role``.

    ``user_id`` is whose password a reset is for. ``email`` is where it was mailed, "" where somebody passes it on.
    """

    __tablename__ = "one_time_link"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[LinkKind] = mapped_column(words(LinkKind, "link_kind"))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    organization_id: Mapped[int | None] = mapped_column(ForeignKey("organization.id"), index=True)
    role: Mapped[Role | None] = mapped_column(words(Role, "role"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    email: Mapped[str] = mapped_column(String(254), default="")
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    organization: Mapped[Organization | None] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(foreign_keys=user_id, lazy="joined")
    created_by: Mapped[User | None] = relationship(foreign_keys=created_by_id, lazy="joined")


class Throttle(Base):
    """How often something failed lately. ``key`` is "account:NAME" or "address:IP"; ``until``: when to try again."""

    __tablename__ = "throttle"

    key: Mapped[str] = mapped_column(String(160), primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[datetime]
    until: Mapped[datetime]
