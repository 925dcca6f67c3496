"""An uploaded Terraform configuration."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base
from models.user import User


class ConfigurationVersion(Base):
    """A numbered archive of an environment; it never changes. ``size`` is the archive's, in bytes."""

    __tablename__ = "configuration_version"
    __table_args__ = (UniqueConstraint("environment_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    environment_id: Mapped[int] = mapped_column(ForeignKey("environment.id"))
    number: Mapped[int]
    message: Mapped[str] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(200))
    archive_kind: Mapped[str] = mapped_column(String(10))
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    files: Mapped[int]
    directories: Mapped[str] = mapped_column(String(2000), default="")
    blob_id: Mapped[str] = mapped_column(ForeignKey("blob.id"))
    uploaded_at: Mapped[datetime]
    uploaded_by_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))

    uploaded_by: Mapped[User] = relationship(lazy="joined")
