"""A run and its two phases."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, words
from models.configuration import ConfigurationVersion
from models.environment import Environment
from models.user import User
from policy.lifecycle import CancelReason, GateFacts, RunStatus
from policy.mfa import MfaLevel, PhaseKind, stricter


class PhaseStatus(StrEnum):
    """How far a phase is; the run's status says what that means for the run."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"


class Phase(Base):
    """The plan or the apply of a run.

    ``actor`` is the person whose effective variables the phase runs with: who queued the plan, who authenticated or
    confirmed. ``authenticated_*``, ``mfa_serial`` and ``session_expires_at`` are set when AWS accepted a code for
    this phase; ``caller_arn`` when the worker asked AWS who the temporary credentials are. ``claim_*`` marks an STS
    call in flight. ``log_size`` (bytes) and ``log_lines`` count what is stored; ``spool_offset`` (bytes) is how far of
    terraform's output that is. ``worker`` ("host:pid") holds the phase while it runs and renews ``heartbeat_at``; a
    lapsed lease is taken over (services/execution/reconcile.py). A finished log is packed (compressed) and, where the
    operator limits how long logs are kept, removed.
    """

    __tablename__ = "phase"
    __table_args__ = (UniqueConstraint("run_id", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    kind: Mapped[PhaseKind] = mapped_column(words(PhaseKind, "phase_kind"))
    status: Mapped[PhaseStatus] = mapped_column(words(PhaseStatus, "phase_status"), default=PhaseStatus.WAITING)
    actor_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))

    authenticated_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    authenticated_at: Mapped[datetime | None]
    mfa_serial: Mapped[str | None] = mapped_column(String(256))
    session_expires_at: Mapped[datetime | None]
    session_seconds: Mapped[int | None]
    caller_arn: Mapped[str | None] = mapped_column(String(2048))
    gate_note: Mapped[str] = mapped_column(String(300), default="")
    claim: Mapped[str | None] = mapped_column(String(36))
    claim_at: Mapped[datetime | None]

    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    exit_code: Mapped[int | None]
    log_size: Mapped[int] = mapped_column(BigInteger, default=0)
    log_lines: Mapped[int] = mapped_column(default=0)
    spool_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    log_packed_at: Mapped[datetime | None]
    log_removed_at: Mapped[datetime | None]

    run: Mapped[Run] = relationship(back_populates="phases")
    actor: Mapped[User | None] = relationship(foreign_keys=actor_id)
    authenticated_by: Mapped[User | None] = relationship(foreign_keys=authenticated_by_id, lazy="joined")


class Run(Base):
    """One plan and, when it found changes and a person agreed, its apply.

    ``mfa_level`` is the environment's at creation and never changes. ``plan_digest`` is the SHA-256 (hex) of the
    saved plan file; ``summary`` is what policy/plan_summary.py made of ``terraform show -json``, masked.
    ``cancel_*`` asks the worker to send terraform its one SIGINT, ``force_*`` for the second one and then SIGKILL.
    ``interruption`` is what is known of a run whose terraform vanished (services/execution/interruption.py).
    """

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("environment_id", "number"),
        Index("ix_run_environment_id_status", "environment_id", "status"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    environment_id: Mapped[int] = mapped_column(ForeignKey("environment.id"))
    number: Mapped[int]
    status: Mapped[RunStatus] = mapped_column(words(RunStatus, "run_status"))
    mfa_level: Mapped[MfaLevel] = mapped_column(words(MfaLevel, "mfa_level"))
    configuration_id: Mapped[int] = mapped_column(ForeignKey("configuration_version.id"))
    message: Mapped[str] = mapped_column(String(200))
    terraform_directory: Mapped[str] = mapped_column(String(500), default="")
    created_by_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    ended_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    confirmed_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))

    terraform_version: Mapped[str | None] = mapped_column(String(40))
    own_backend: Mapped[str | None] = mapped_column(String(60))
    plan_blob_id: Mapped[str | None] = mapped_column(ForeignKey("blob.id"))
    lock_blob_id: Mapped[str | None] = mapped_column(ForeignKey("blob.id"))
    plan_digest: Mapped[str | None] = mapped_column(String(64))
    counts: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    applied_counts: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    summary: Mapped[dict[str, Any] | None] = mapped_column(JSON, deferred=True)
    error: Mapped[str] = mapped_column(String(1000), default="")
    error_code: Mapped[str] = mapped_column(String(40), default="")

    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    cancel_reason: Mapped[CancelReason | None] = mapped_column(words(CancelReason, "cancel_reason"))
    force_requested_at: Mapped[datetime | None]
    force_requested_by_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    interruption: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    unkept: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    environment: Mapped[Environment] = relationship(lazy="joined")
    configuration: Mapped[ConfigurationVersion] = relationship(lazy="joined")
    created_by: Mapped[User] = relationship(foreign_keys=created_by_id, lazy="joined")
    ended_by: Mapped[User | None] = relationship(foreign_keys=ended_by_id)
    confirmed_by: Mapped[User | None] = relationship(foreign_keys=confirmed_by_id)
    cancel_requested_by: Mapped[User | None] = relationship(foreign_keys=cancel_requested_by_id)
    force_requested_by: Mapped[User | None] = relationship(foreign_keys=force_requested_by_id)
    phases: Mapped[list[Phase]] = relationship(back_populates="run", order_by=Phase.id, lazy="selectin")

    def phase(self, kind: PhaseKind) -> Phase:
        """The run's phase of this kind; both exist from the start."""
        return next(phase for phase in self.phases if phase.kind is kind)

    @property
    def plan(self) -> Phase:
        """The plan phase."""
        return self.phase(PhaseKind.PLAN)

    @property
    def apply(self) -> Phase:
        """The apply phase."""
        return self.phase(PhaseKind.APPLY)

    @property
    def level(self) -> MfaLevel:
        """The level in force: the stricter of the run's own and the environment's present one."""
        return stricter(self.mfa_level, self.environment.mfa_level)

    @property
    def gate(self) -> GateFacts:
        """What policy/lifecycle.py needs to know about the gates."""
        return GateFacts(self.level, frozenset(p.kind for p in self.phases if p.authenticated_at is not None))
