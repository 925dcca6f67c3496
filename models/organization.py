"""An organization and who belongs to it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.user import User
from policy.permissions import Permission, Role, allows


class Organization(Base):
    """The wall: everything else belongs to exactly one organization.

    Where ``second_factor_required`` a person without a second factor can do nothing here but set one up.
    """

    __tablename__ = "organization"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    second_factor_required: Mapped[bool] = mapped_column(default=False)


class Membership(Base):
    """A person's role in an organization."""

    __tablename__ = "membership"

    organization_id: Mapped[int] = mapped_column(ForeignKey("organization.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), primary_key=True, index=True)
    role: Mapped[Role] = mapped_column(words(Role, "role"))

    organization: Mapped[Organization] = relationship(lazy="joined")
    user: Mapped[User] = relationship(lazy="joined")

    def may(self, permission: Permission) -> bool:
        """Whether this member may do ``permission``, which is in no environment; there, ask services/access.py."""
        return allows(self.role, None, permission)
