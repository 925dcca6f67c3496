"""A stored Terraform state."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.run import Run
from models.user import User


class StateSource(StrEnum):
    """How a state came here."""

    RUN = "run"
    TERMINAL = "terminal"
    UPLOAD = "upload"
    ROLLBACK = "rollback"


class StateVersion(Base):
    """One state of an environment, encrypted at rest. ``serial`` and ``lineage`` are terraform's, ``md5`` is hex.

    ``number`` counts the versions of the environment in the order in which they were stored; the newest is current.
    ``run_id`` or ``created_by_id`` says who saved it, ``source`` how; ``restored_number`` is the version that a
    rollback brought back. ``changes`` counts the resources that differ from the version before: add, change, destroy.
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
    source: Mapped[StateSource] = mapped_column(words(StateSource, "state_source"), default=StateSource.RUN)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"), index=True)
    created_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    restored_number: Mapped[int | None]
    changes: Mapped[dict[str, int] | None] = mapped_column(JSON)
    created_at: Mapped[datetime]

    run: Mapped[Run | None] = relationship(lazy="joined")
    created_by: Mapped[User | None] = relationship(lazy="joined")
