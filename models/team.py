"""Teams, and who has access to which environment."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.organization import Organization
from models.user import User
from policy.permissions import Access


class Team(Base):
    """Members of an organization who get access together."""

    __tablename__ = "team"
    __table_args__ = (UniqueConstraint("organization_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[int] = mapped_column(ForeignKey("organization.id"))
    name: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]

    organization: Mapped[Organization] = relationship(lazy="joined")


class TeamMember(Base):
    """Somebody in a team."""

    __tablename__ = "team_member"

    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), primary_key=True, index=True)

    user: Mapped[User] = relationship(lazy="joined")


class Grant(Base):
    """Access to an environment, of a team or of one person."""

    __tablename__ = "access_grant"
    __table_args__ = (
        UniqueConstraint("environment_id", "team_id"),
        UniqueConstraint("environment_id", "user_id"),
        CheckConstraint("(team_id IS NULL) != (user_id IS NULL)", name="one_holder"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    environment_id: Mapped[int] = mapped_column(ForeignKey("environment.id"), index=True)
    team_id: Mapped[int | None] = mapped_column(ForeignKey("team.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"), index=True)
    access: Mapped[Access] = mapped_column(words(Access, "access"))

    team: Mapped[Team | None] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(lazy="joined")
