"""Runs as they look after a piece of their life, for the tests of their pages."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from extensions import db
from models import Environment, MfaAttempt, Outcome, Phase, PhaseStatus, Run
from policy import sts_answers
from policy.lifecycle import RunStatus
from policy.mfa import PhaseKind
from policy.plan_summary import summarize
from policy.sts_answers import Answer
from services import clock
from services.storage import logs
from tests import factories

SERIAL = "arn:aws:iam::123456789012:mfa/alice"
DIGEST = "3f2a9c81d0ab4e6b9a072d4c5f1be9603f2a9c81d0ab4e6b9a072d4c5f1be960"
COUNTS = {"add": 2, "change": 1, "destroy": 1, "imported": 0, "forgotten": 0, "outputs_changed": True}

_AFTER_PLAN = (
    RunStatus.AWAITING_CONFIRMATION, RunStatus.AWAITING_APPLY_AUTHENTICATION, RunStatus.APPLY_QUEUED,
    RunStatus.APPLYING, RunStatus.APPLIED, RunStatus.PLANNED_AND_FINISHED,
)  # fmt: skip


def keys_for(name: str, serial: str = SERIAL) -> None:
    """The three AWS variables of a person, so that the token form is shown to them."""
    for variable, value in (
        ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("AWS_MFA_SERIAL_NUMBER", serial),
    ):
        factories.variable(variable, value, owner=name)


def story(of: Environment, status: RunStatus, **columns: Any) -> Run:
    """A run in ``status`` with what came before: finished phases, logs, a plan, accepted codes."""
    now = clock.now()
    run = factories.run(of, status, **({"created_at": now - timedelta(minutes=10)} | columns))
    level = run.mfa_level
    after_plan = status in _AFTER_PLAN
    if status in (RunStatus.PLAN_QUEUED, RunStatus.PLANNING) or after_plan:
        if level.demands(PhaseKind.PLAN):
            accepted(run.plan, now - timedelta(minutes=9, seconds=30))
        run.plan.status, run.plan.queued_at = PhaseStatus.QUEUED, now - timedelta(minutes=9, seconds=20)
    if status is RunStatus.PLANNING or after_plan:
        begin(run.plan, now - timedelta(minutes=9, seconds=10))
        plan_log(run)
    if after_plan:
        finish(run.plan, now - timedelta(minutes=8, seconds=32))
        planned(run)
    if status in (RunStatus.APPLY_QUEUED, RunStatus.APPLYING, RunStatus.APPLIED):
        if level.demands(PhaseKind.APPLY):
            accepted(run.apply, now - timedelta(minutes=2))
        else:
            run.confirmed_by_id = run.created_by_id
        run.apply.status, run.apply.queued_at = PhaseStatus.QUEUED, now - timedelta(minutes=2)
    if status in (RunStatus.APPLYING, RunStatus.APPLIED):
        begin(run.apply, now - timedelta(minutes=1, seconds=48))
        logs.append(run.apply.id, run.apply.log_size, b"aws_subnet.private: Creating...\n")
    if status is RunStatus.APPLIED:
        finish(run.apply, now)
        run.applied_counts = COUNTS
        logs.say(run.apply.id, "Apply finished in 108 s")
    if status is RunStatus.PLANNED_AND_FINISHED:
        run.plan_digest = run.counts = run.summary = None
    db.session.commit()
    if status is RunStatus.APPLIED:
        factories.state(run, serial=16)
    return run


def planned(run: Run, resources: int = 3) -> None:
    """A saved plan with attributes."""
    run.plan_digest, run.terraform_version, run.counts = DIGEST, "1.11.4", COUNTS
    run.summary = summarize(show_json(resources)).to_json()
    db.session.commit()


def show_json(resources: int = 3) -> dict[str, Any]:
    """What ``terraform show -json`` says of a plan with some creations, one update and one destruction."""
    made: dict[str, Any] = {"actions": ["create"], "before": None, "after_unknown": {"id": True}}
    changed = {"actions": ["update"], "before": {"tier": "a", "kept": 1}, "after": {"tier": "b", "kept": 1}}
    gone = {"actions": ["delete"], "before": {"engine": "redis"}, "after": None}
    creations = [
        {"address": f'aws_subnet.private["{i}"]', "change": made | {"after": {"cidr_block": f"10.0.{i}.0/24"}}}
        for i in range(resources - 2)
    ]
    return {
        "resource_changes": [
            *creations,
            {"address": "aws_network_acl.private", "change": changed},
            {"address": "aws_elasticache_cluster.queue", "change": gone},
        ],
        "output_changes": {"vpc_id": {"actions": ["create"], "before": None, "after": "vpc-1"}},
    }


def accepted(phase: Phase, at: datetime) -> None:
    """AWS accepted a code for this phase."""
    phase.authenticated_by_id, phase.authenticated_at = phase.run.created_by_id, at
    phase.mfa_serial, phase.session_seconds = SERIAL, 3600
    phase.session_expires_at = at + timedelta(hours=1)
    _attempt(phase, Outcome.ACCEPTED, "accepted", at)
    logs.say(phase.id, "Authenticated with MFA by alice", tone="ok")
    db.session.commit()
    db.session.refresh(phase)


def refused(phase: Phase, answer: Answer = sts_answers.CODE_REFUSED, by: str = "alice") -> MfaAttempt:
    """AWS, or Lockstep, refused a code for this phase."""
    local = answer.reason in ("not_six_digits", "too_many", "variables_missing", "already_used")
    aws = {} if local else {"aws_code": "AccessDenied", "aws_message": "invalid MFA one time pass code. "}
    outcome = Outcome.STOPPED if local else Outcome.REFUSED
    return _attempt(phase, outcome, answer.reason, clock.now(), by, **aws)


def _attempt(phase: Phase, outcome: Outcome, reason: str, at: datetime, by: str = "alice", **aws: str) -> MfaAttempt:
    row = MfaAttempt(
        phase_id=phase.id, user_id=factories.person(by).id, serial=SERIAL, at=at, outcome=outcome, reason=reason, **aws
    )
    db.session.add(row)
    db.session.commit()
    return row


def begin(phase: Phase, at: datetime) -> None:
    """A worker took the phase."""
    phase.status, phase.started_at, phase.queued_at = PhaseStatus.RUNNING, at, phase.queued_at or at
    db.session.commit()


def finish(phase: Phase, at: datetime, status: PhaseStatus = PhaseStatus.FINISHED) -> None:
    """The phase ended."""
    phase.status, phase.finished_at, phase.exit_code = status, at, 1 if status is PhaseStatus.FAILED else 0
    db.session.commit()


def plan_log(run: Run, lines: int = 12) -> None:
    """Some output of terraform, with colour."""
    logs.say(run.plan.id, "Configuration v1 unpacked; Terraform 1.11.4")
    text = "".join(f"\x1b[32m+\x1b[0m aws_subnet.private[{n}]: Refreshing state...\n" for n in range(lines))
    logs.append(run.plan.id, _size(run.plan), text.encode())
    db.session.commit()
    db.session.refresh(run.plan)


def errored(run: Run, sentence: str, code: str = "terraform_failed") -> None:
    """The phase at hand failed and ended the run."""
    phase = run.apply if run.apply.queued_at else run.plan
    finish(phase, clock.now(), PhaseStatus.FAILED)
    logs.say(phase.id, sentence, tone="bad")
    run.status, run.error, run.error_code, run.finished_at = RunStatus.ERRORED, sentence, code, clock.now()
    run.environment.active_run_id = None
    db.session.commit()


def _size(phase: Phase) -> int:
    db.session.refresh(phase)
    return phase.log_size
