"""A variable of a run."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.user import User


class Category(StrEnum):
    """What a variable becomes in the run."""

    TERRAFORM = "terraform"
    ENV = "env"


class Scope(StrEnum):
    """Where a variable is set; later ones win over earlier ones."""

    ORGANIZATION = "organization"
    ENVIRONMENT = "environment"
    PERSONAL_ORGANIZATION = "personal organization"
    PERSONAL_ENVIRONMENT = "personal environment"


class Variable(Base):
    """One value in one scope, encrypted with the row's ``place`` as associated data.

    ``place`` is the scope in one word: ``o1``, ``o1/e3``, ``o1/u5`` or ``o1/e3/u5``. It makes the uniqueness
    of a name in a scope a plain constraint (NULLs would not collide).
    """

    __tablename__ = "variable"
    __table_args__ = (UniqueConstraint("place", "category", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(String(80))
    organization_id: Mapped[int] = mapped_column(ForeignKey("organization.id"), index=True)
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environment.id"), index=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    category: Mapped[Category] = mapped_column(words(Category, "category"))
    name: Mapped[str] = mapped_column(String(128))
    value: Mapped[bytes] = mapped_column(LargeBinary)
    sensitive: Mapped[bool] = mapped_column(default=False)
    hcl: Mapped[bool] = mapped_column(default=False)
    updated_at: Mapped[datetime]
    updated_by_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))

    updated_by: Mapped[User] = relationship(foreign_keys=updated_by_id, lazy="joined")

    @property
    def scope(self) -> Scope:
        """The scope, from which columns are set."""
        if self.owner_id is None:
            return Scope.ORGANIZATION if self.environment_id is None else Scope.ENVIRONMENT
        return Scope.PERSONAL_ORGANIZATION if self.environment_id is None else Scope.PERSONAL_ENVIRONMENT

    @property
    def scope_rank(self) -> int:
        """0 to 3; the highest rank wins."""
        return list(Scope).index(self.scope)

    @property
    def mark(self) -> str:
        """Tells what a page showed from what the variable was made since: when it was changed last."""
        return self.updated_at.isoformat()

    @property
    def context(self) -> str:
        """The associated data that binds the stored value to this row."""
        return f"variable:{self.place}:{self.category.value}:{self.name}"
