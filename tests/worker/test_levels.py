"""The three levels, each from the queue to the end, with real terraform."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from extensions import db
from models import AuditEvent, PhaseStatus, StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Access
from services import environments, holds, members, queue, runs, states
from services.errors import Conflict
from services.execution import reconcile, steps
from services.execution.work import Work
from services.mfa import handoff, sts
from tests import factories
from tests.support import lab
from tests.worker.configurations import BROKEN, ONE, TWO
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def test_never(bench: Bench) -> None:
    run = bench.run(TWO)
    assert lab.status(run) is RunStatus.PLAN_QUEUED
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION
    assert run.counts is not None and run.counts["add"] == 2
    assert run.plan_digest and len(run.plan_digest) == 64
    assert run.plan_digest in lab.log_of(run.plan)
    assert run.summary is not None and len(run.summary["resources"]) == 2
    assert run.plan.exit_code == 2
    runs.confirm(factories.member("bob"), run)
    assert bench.work(run.apply) is RunStatus.APPLIED
    log = lab.log_of(run.apply)
    assert log.startswith("Confirmed by bob\n")
    assert "Apply complete! Resources: 2 added" in log
    assert (run.apply.exit_code, run.apply.status) == (0, PhaseStatus.FINISHED)
    assert run.applied_counts is not None and run.applied_counts["add"] == 2
    assert run.apply.actor is not None and run.apply.actor.name == "bob"
    assert bench.environment.active_run_id is None
    assert bench.aws.calls == []
    events = [event.action for event in db.session.query(AuditEvent).order_by(AuditEvent.id)]
    assert [action for action in events if action.startswith("run.")] == [
        "run.create", "run.start", "run.take", "run.awaiting_confirmation", "run.confirm", "run.take", "run.applied",
    ]  # fmt: skip


def test_applies_only(bench: Bench) -> None:
    lab.aws_keys(bench.aws, "bob")
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    assert bench.aws.outcomes() == []
    assert bench.environment.active_run_id == run.id
    with pytest.raises(Conflict):
        runs.confirm(factories.member(), run)
    lab.authenticate(run, bench.aws.code("bob"), "bob")
    assert bench.work(run.apply) is RunStatus.APPLIED
    assert lab.log_of(run.apply).startswith("Authenticated with MFA by bob\n")
    assert run.apply.caller_arn == bench.aws.user("bob").arn
    assert run.plan.caller_arn is None
    assert len(bench.aws.outcomes()) == 1


def test_plans_and_applies(bench: Bench) -> None:
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()
    run = bench.run(ONE)
    assert lab.status(run) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert lab.queued_jobs() == []
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.apply) is RunStatus.APPLIED
    for phase in run.phases:
        assert lab.log_of(phase).startswith("Authenticated with MFA by alice\n")
        assert phase.caller_arn == bench.aws.user().arn
    assert bench.aws.outcomes() == ["ok", "ok"]
    assert bench.aws.outcomes("GetCallerIdentity") == ["ok", "ok"]


@pytest.mark.parametrize(
    ("serial", "own", "region"),
    [
        ("arn:aws:iam::123456789012:mfa/alice", "", "us-east-1"),
        ("arn:aws-us-gov:iam::123456789012:mfa/alice", "", "us-gov-west-1"),
        ("arn:aws-cn:iam::123456789012:mfa/alice", "", "cn-north-1"),
        ("arn:aws-cn:iam::123456789012:mfa/alice", "cn-northwest-1", "cn-northwest-1"),
    ],
)
def test_the_identity_is_asked_where_the_session_was_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, serial: str, own: str, region: str
) -> None:
    """Another partition does not know the session."""
    lab.aws_keys(bench.aws, without="AWS_REGION", **({"AWS_REGION": own} if own else {}))
    bench.environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()
    run = bench.run(ONE)
    lab.authenticate(run, bench.aws.code())
    run.plan.mfa_serial = serial  # the stand-in has no devices of other partitions
    asked: list[str] = []
    real = sts._client

    def client(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(sts, "_client", client)
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    assert asked == [region]
    assert run.plan.caller_arn == bench.aws.user().arn


def test_no_changes_and_the_second_plan_sees_the_state(bench: Bench) -> None:
    version = bench.upload(ONE)
    bench.applied(version)
    again = bench.run(version)
    assert bench.work(again.plan) is RunStatus.PLANNED_AND_FINISHED
    assert again.plan.exit_code == 0
    assert "No changes" in lab.log_of(again.plan)
    assert (again.plan_digest, again.plan_blob_id) == (None, None)
    assert again.apply.status is PhaseStatus.WAITING
    assert bench.environment.active_run_id is None
    more = bench.planned(TWO)
    assert more.counts is not None and (more.counts["add"], more.counts["change"]) == (1, 0)


def test_an_error_is_quoted_and_the_next_run_starts(bench: Bench) -> None:
    run = bench.run(BROKEN)
    waiting = bench.run(ONE)
    assert lab.status(waiting) is RunStatus.PENDING
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert (run.error_code, run.plan.exit_code, run.plan.status) == ("terraform_failed", 1, PhaseStatus.FAILED)
    assert run.error == (
        "Terraform ended with an error in the plan (exit code 1): Reference to undeclared input variable. See the log."
    )
    assert lab.log_of(run.plan).endswith(run.error + "\n")
    assert lab.status(waiting) is RunStatus.PLAN_QUEUED
    assert db.session.query(StateVersion).count() == 0


def test_a_level_that_is_raised_while_the_plan_runs_counts_at_its_end(bench: Bench) -> None:
    run = bench.run(ONE)
    real = steps.plan_arguments

    def raise_level(work: Work) -> list[str]:
        settings = environments.Settings(MfaLevel.APPLIES_ONLY, 3600, "", "")
        environments.save_settings(factories.member(), factories.environment(), settings)
        return real(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "plan_arguments", raise_level)
        assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    assert run.plan_digest


@pytest.mark.parametrize("kind", ["plan", "apply"])
def test_a_level_that_is_raised_before_the_worker_takes_the_phase_stops_it(bench: Bench, kind: str) -> None:
    run = bench.run(ONE) if kind == "plan" else bench.planned(ONE)
    if kind == "apply":
        runs.confirm(factories.member(), run)
    settings = environments.Settings(MfaLevel.PLANS_AND_APPLIES, 3600, "", "")
    environments.save_settings(factories.member(), bench.environment, settings)
    phase = run.plan if kind == "plan" else run.apply
    assert bench.work(phase).value == f"awaiting_{kind}_authentication"
    assert phase.gate_note == (
        "The MFA level was raised before the phase began. Nothing was started; enter a new code."
    )
    assert phase.status is PhaseStatus.WAITING
    assert bench.environment.active_run_id == (None if kind == "plan" else run.id)
    assert states.latest(bench.environment.id) is None


@pytest.mark.parametrize("kind", ["plan", "apply"])
def test_what_was_queued_before_a_lock_by_hand_starts_when_it_is_taken_off(bench: Bench, kind: str) -> None:
    run = bench.run(ONE) if kind == "plan" else bench.planned(ONE)
    if kind == "apply":
        runs.confirm(factories.member(), run)
    phase, before = (run.plan, "plan_queued") if kind == "plan" else (run.apply, "apply_queued")
    environments.lock(factories.member("bob"), bench.environment, "incident, hands off")
    queue.queue().empty()  # a worker takes the job
    assert bench.work(phase).value == before
    assert (phase.status, phase.started_at, phase.worker) == (PhaseStatus.QUEUED, None, None)
    assert bench.environment.active_run_id == run.id
    db.session.commit()
    for _ in range(2):  # whoever looks around does not fill the queue
        reconcile.look_around()
    assert lab.queued_jobs() == [("services.execution.job.run_phase", [phase.id])]
    queue.queue().empty()
    assert bench.work(phase).value == before
    environments.unlock(factories.member(), bench.environment, str(bench.environment.lock_mark))
    assert lab.queued_jobs() == [("services.execution.job.run_phase", [phase.id])]
    after = RunStatus.AWAITING_CONFIRMATION if kind == "plan" else RunStatus.APPLIED
    assert bench.work(phase) is after


def test_a_lock_by_hand_lets_what_runs_finish(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = bench.run(ONE), steps.plan_arguments

    def lock(work: Work) -> list[str]:
        environments.lock(factories.member("bob"), factories.environment(), "incident, hands off")
        return real(work)

    monkeypatch.setattr(steps, "plan_arguments", lock)
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION


@pytest.mark.parametrize("kind", ["plan", "apply"])
@pytest.mark.parametrize("how", ["removed", "reads only", "sees nothing"])
def test_what_somebody_queued_who_may_not_apply_any_more_does_not_start(bench: Bench, kind: str, how: str) -> None:
    """A lock by hand can keep it queued for days."""
    lab.aws_keys(bench.aws, "bob")
    bench.environment.mfa_level = MfaLevel.APPLIES_ONLY
    db.session.commit()
    run = bench.run(ONE, by="bob")
    if kind == "apply":
        assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION
        lab.authenticate(run, bench.aws.code("bob"), by="bob")
    phase = run.plan if kind == "plan" else run.apply
    environments.lock(factories.member(), bench.environment, "Freeze")
    later = bench.run(ONE)
    if how == "removed":
        members.remove(factories.member(), "bob")
    else:
        factories.grant(bench.environment, "bob", Access.READ if how == "reads only" else None)
    environments.unlock(factories.member(), bench.environment, str(bench.environment.lock_mark))
    assert bench.work(phase) is RunStatus.CANCELED
    why = f"bob may not apply here any more, so the {kind} that they had queued was not started."
    db.session.refresh(run)
    assert (run.error, run.error_code) == (f"{why} Queue a new plan.", "access_ended")
    assert lab.log_of(phase).endswith(f"{why}\n")
    assert (phase.status, phase.started_at, handoff.take(phase.id)) == (PhaseStatus.CANCELED, None, None)
    event = db.session.scalars(select(AuditEvent).filter_by(action="run.cancel", run_id=run.id)).one()
    assert (event.actor_name, event.details) == ("Lockstep", {"reason": why})
    assert lab.status(later) is RunStatus.PLAN_QUEUED
    assert bench.work(later.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION


def test_a_phase_is_run_once(bench: Bench) -> None:
    run = bench.run(ONE)
    assert lab.queued_jobs() == [("services.execution.job.run_phase", [run.plan.id])]
    both = [bench.start(run.plan), bench.start(run.plan)]
    for one in both:
        one.result()
    assert lab.status(run) is RunStatus.AWAITING_CONFIRMATION
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION
    assert lab.log_of(run.plan).count("Initializing the backend") == 1
    assert bench.work(run.apply) is RunStatus.AWAITING_CONFIRMATION, "an apply that nobody queued does not start"


def test_a_phase_forced_into_the_queue_does_not_pass_the_gate(bench: Bench) -> None:
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()
    run = bench.run(ONE)
    # Somebody who can write to the database, but has no code: the phase alone, then the run's status with it.
    run.plan.status = PhaseStatus.QUEUED
    db.session.commit()
    assert bench.work(run.plan) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    run.status = RunStatus.PLAN_QUEUED
    run.plan.status = PhaseStatus.QUEUED
    holds.hold(bench.environment.id, run.id)
    db.session.commit()
    assert bench.work(run.plan) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    # Even as if authenticated there are no credentials to run with.
    run.status = RunStatus.PLAN_QUEUED
    run.plan.status = PhaseStatus.QUEUED
    run.plan.authenticated_at = run.created_at
    db.session.commit()
    assert bench.work(run.plan) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert "Initializing" not in lab.log_of(run.plan)
    assert run.plan.authenticated_at is None
