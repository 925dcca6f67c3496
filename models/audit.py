"""What happened, by whom."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class AuditEvent(Base):
    """Append-only. ``details`` holds names and before → after, never a secret.

    ``actor_id`` is None for Lockstep itself. ``digest`` (SHA-256, hex) covers the event and the digest of the one
    before it, so that a removed or changed one shows; ``sequence`` counts from 1 without a gap.
    """

    __tablename__ = "audit_event"
    __table_args__ = (Index("ix_audit_event_organization_id_at", "organization_id", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    actor_name: Mapped[str] = mapped_column(String(64))
    organization_id: Mapped[int | None] = mapped_column(ForeignKey("organization.id"))
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environment.id"))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"))
    action: Mapped[str] = mapped_column(String(60))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    address: Mapped[str] = mapped_column(String(64), default="")
    request_id: Mapped[str] = mapped_column(String(32), default="")
    sequence: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    digest: Mapped[str] = mapped_column(String(64), default="")
