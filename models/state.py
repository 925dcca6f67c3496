"""A stored Terraform state."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base
from models.run import Run


class StateVersion(Base):
    """One state of an environment, encrypted at rest. ``serial`` and ``lineage`` are terraform's, ``md5`` is hex.

    ``number`` counts the versions of the environment in the order in which they were stored; the newest is current.
    """

    __tablename__ = "state_version"
    __table_args__ = (
        UniqueConstraint("environment_id", "number"),
        Index("ix_state_version_environment_id_serial", "environment_id", "serial"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    environment_id: Mapped[int] = mapped_column(ForeignKey("environment.id"))
    number: Mapped[int]
    serial: Mapped[int] = mapped_column(BigInteger)
    lineage: Mapped[str] = mapped_column(String(100))
    md5: Mapped[str] = mapped_column(String(32))
    size: Mapped[int]
    resources: Mapped[int]
    terraform_version: Mapped[str] = mapped_column(String(40))
    blob_id: Mapped[str] = mapped_column(ForeignKey("blob.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    created_at: Mapped[datetime]

    run: Mapped[Run] = relationship(lazy="joined")
