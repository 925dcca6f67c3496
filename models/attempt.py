"""Every try at a gate, good or bad."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.user import User


class Outcome(StrEnum):
    """How an attempt ended. Only REFUSED counts against the limit of attempts."""

    ACCEPTED = "accepted"  # AWS took the code
    REFUSED = "refused"  # AWS said no
    UNANSWERED = "unanswered"  # AWS did not answer, or could not be reached
    STOPPED = "stopped"  # refused here, before anything was sent to AWS


class MfaAttempt(Base):
    """Append-only. The code itself is in no column.

    ``caller_arn`` is the IAM identity where AWS's answer named it; for accepted attempts the worker's
    GetCallerIdentity with the temporary credentials adds it to the phase.
    """

    __tablename__ = "mfa_attempt"
    __table_args__ = (
        Index("ix_mfa_attempt_user_id_at", "user_id", "at"),
        Index("ix_mfa_attempt_serial_at", "serial", "at"),
        Index("ix_mfa_attempt_phase_id_at", "phase_id", "at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    phase_id: Mapped[int] = mapped_column(ForeignKey("phase.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    serial: Mapped[str] = mapped_column(String(256))
    at: Mapped[datetime]
    outcome: Mapped[Outcome] = mapped_column(words(Outcome, "outcome"))
    reason: Mapped[str] = mapped_column(String(40))
    aws_code: Mapped[str] = mapped_column(String(100), default="")
    aws_message: Mapped[str] = mapped_column(String(500), default="")
    caller_arn: Mapped[str | None] = mapped_column(String(2048))
    session_expires_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="joined")
