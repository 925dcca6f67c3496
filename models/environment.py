"""An environment: one configuration with its own state, variables and MFA level."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.organization import Organization
from models.user import User
from policy.mfa import SESSION_DEFAULT, MfaLevel


class Environment(Base):
    """``active_run_id`` is the one run that holds the environment; it changes by compare-and-set only.

    The counters give runs and configuration versions their numbers inside the environment. ``locked_*`` is the lock
    that a person set by hand, ``state_lock_*`` the one that somebody's terraform took through the http backend:
    ``state_lock_id`` and ``state_lock_info`` are what terraform sent (its LockInfo: Operation, Who, Created …).
    ``unkept_run_id`` is the run whose newest state could not be stored: nothing starts on the older one until it is, or
    somebody says so (services/unkept.py).
    """

    __tablename__ = "environment"
    __table_args__ = (UniqueConstraint("organization_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int] = mapped_column(ForeignKey("organization.id"))
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime]

    mfa_level: Mapped[MfaLevel] = mapped_column(words(MfaLevel, "mfa_level"), default=MfaLevel.NEVER)
    session_seconds: Mapped[int] = mapped_column(default=SESSION_DEFAULT)
    terraform_directory: Mapped[str] = mapped_column(String(500), default="")
    settings_saved_at: Mapped[datetime | None]
    settings_saved_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))

    active_run_id: Mapped[int | None]
    unkept_run_id: Mapped[int | None]
    run_counter: Mapped[int] = mapped_column(default=0)
    configuration_counter: Mapped[int] = mapped_column(default=0)

    locked_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    locked_at: Mapped[datetime | None]
    lock_reason: Mapped[str] = mapped_column(String(200), default="")

    state_lock_id: Mapped[str | None] = mapped_column(String(100))
    state_lock_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    state_lock_at: Mapped[datetime | None]
    state_lock_info: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    organization: Mapped[Organization] = relationship(lazy="joined")
    locked_by: Mapped[User | None] = relationship(foreign_keys=locked_by_id)
    state_lock_by: Mapped[User | None] = relationship(foreign_keys=state_lock_by_id)
    settings_saved_by: Mapped[User | None] = relationship(foreign_keys=settings_saved_by_id)

    @property
    def locked(self) -> bool:
        """Whether nothing may start: a person locked it by hand, or a state is missing."""
        return self.locked_by_id is not None or self.unkept_run_id is not None

    @property
    def lock_mark(self) -> str | None:
        """Tells the lock that a person set by hand from any other: who did, and when. None when there is none."""
        return f"{self.locked_by.name} {self.locked_at}" if self.locked_by else None
