"""Bytes at rest: configurations, plans and states."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Blob(Base):
    """Encrypted bytes. ``digest`` (SHA-256, hex) and ``size`` (bytes) are those of the plain content.

    ``data`` is None for bytes that lie in an object store, at ``location`` (``s3://bucket/key``).
    """

    __tablename__ = "blob"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    created_at: Mapped[datetime]
    location: Mapped[str | None] = mapped_column(String(1024))
    data: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
