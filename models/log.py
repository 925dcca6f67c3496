"""The log of a phase."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class LogChunk(Base):
    """Whole lines at a byte offset. Appending the same offset again is a no-op, never a second copy.

    ``first_line`` is the number of the chunk's first line, counted from 1. ``sgr`` is the colour state that earlier
    output left open. ``tone`` is set on Lockstep's own lines ("own", "ok", "bad", "error"): terraform cannot forge it.
    ``size`` counts bytes of the log; ``packed`` data is compressed (zlib).
    """

    __tablename__ = "log_chunk"
    __table_args__ = (
        UniqueConstraint("phase_id", "offset"),
        Index("ix_log_chunk_phase_id_first_line", "phase_id", "first_line"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    phase_id: Mapped[int] = mapped_column(ForeignKey("phase.id"))
    offset: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int]
    first_line: Mapped[int]
    lines: Mapped[int]
    sgr: Mapped[str] = mapped_column(String(60), default="")
    tone: Mapped[str | None] = mapped_column(String(10))
    at: Mapped[datetime]
    packed: Mapped[bool] = mapped_column(default=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
