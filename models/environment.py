"""An environment: one configuration with its own state, variables and MFA level."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.organization import Organization
from models.user import User
from policy.mfa import SESSION_DEFAULT, MfaLevel


class Environment(Base):
    """``active_run_id`` is the one run that holds the environment; it changes by compare-and-set only.

    The counters give runs and configuration versions their numbers inside the environment.
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
    run_counter: Mapped[int] = mapped_column(default=0)
    configuration_counter: Mapped[int] = mapped_column(default=0)

    locked_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    locked_at: Mapped[datetime | None]
    lock_reason: Mapped[str] = mapped_column(String(200), default="")

    organization: Mapped[Organization] = relationship(lazy="joined")
    locked_by: Mapped[User | None] = relationship(foreign_keys=locked_by_id)
    settings_saved_by: Mapped[User | None] = relationship(foreign_keys=settings_saved_by_id)
