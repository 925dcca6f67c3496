"""Real terraform with the real AWS provider through assume_role: with a code it works, without one nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from extensions import db
from models import Category, PhaseStatus, Run, StateVersion
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import queue
from services.errors import CodeRejected
from services.execution import job
from tests import factories
from tests.support import lab, mirror
from tests.worker.conftest import Bench

pytestmark = pytest.mark.aws

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "demo" / "configurations"


@pytest.fixture(autouse=True)
def _providers(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider comes from a mirror on this machine, never from the network."""
    path = mirror.write_cli_config(tmp_path / "terraform.rc", mirror.provider_mirror())
    operator = {"AWS_ENDPOINT_URL": bench.aws.endpoint, "TF_CLI_CONFIG_FILE": str(path)}
    bench.settings(monkeypatch, operator=operator)


def bucket_run(bench: Bench, level: MfaLevel, name: str, configuration: str) -> Run:
    """A run of one of the demo's configurations for a bucket of this name."""
    lab.aws_keys(bench.aws)
    for key, value in (("bucket_name", name), ("role_arn", bench.aws.role_arn)):
        factories.variable(key, value, of=bench.environment, category=Category.TERRAFORM)
    bench.environment.mfa_level = level
    db.session.commit()
    return bench.run((CONFIGURATIONS / configuration / "main.tf").read_text())


def refuse(run: Run, code: str, reason: str) -> None:
    before = run.status
    with pytest.raises(CodeRejected) as caught:
        lab.authenticate(run, code)
    assert caught.value.reason == reason
    assert run.status is before


def force(run: Run, status: RunStatus, *, authenticated: bool) -> None:
    """As somebody would who can write to the database but has no code."""
    phase = run.plan if status is RunStatus.PLAN_QUEUED else run.apply
    run.status, phase.status = status, PhaseStatus.QUEUED
    phase.authenticated_at = run.created_at if authenticated else None
    db.session.commit()


def test_plans_and_applies_through_the_role(bench: Bench) -> None:
    run = bucket_run(bench, MfaLevel.PLANS_AND_APPLIES, "lockstep-both", "bucket-assume-role")
    for authenticated in (False, True):
        force(run, RunStatus.PLAN_QUEUED, authenticated=authenticated)
        assert bench.work(run.plan) is RunStatus.AWAITING_PLAN_AUTHENTICATION, "no code"
    refuse(run, bench.aws.wrong_code(), "code_refused")
    code = bench.aws.code()
    lab.authenticate(run, code)
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION, run.error
    assert run.counts is not None and run.counts["add"] == 1
    assert run.summary is not None
    assert [change["address"] for change in run.summary["resources"]] == ["aws_s3_bucket.this"]

    refuse(run, code, "already_used")
    queue.connection().flushall()  # and when Lockstep has forgotten it, AWS has not
    refuse(run, code, "code_refused")
    assert "lockstep-both" not in bench.aws.bucket_names()
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error
    assert "lockstep-both" in bench.aws.bucket_names()
    assert run.plan.caller_arn == run.apply.caller_arn == bench.aws.user().arn
    assert [version.resources for version in db.session.query(StateVersion)] == [1]
    assert lab.log_of(run.apply).startswith("Authenticated with MFA by alice\n")
    kept = lab.stored(bench.app, queue.connection())
    assert bench.aws.user().secret_access_key.encode() not in kept
    assert len(lab.attempts(run.plan)) == 2


def test_applies_only_through_the_role_and_an_expired_session(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # The attributes of a plan start the provider once more, for seconds; the test above has them.
    monkeypatch.setattr(job, "summarize", lambda *_, **__: None)
    configuration = "bucket-assume-role-applies-only"
    run = bucket_run(bench, MfaLevel.APPLIES_ONLY, "lockstep-applies", configuration)
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION, run.error
    assert bench.aws.outcomes() == [], "the plan runs with the long-lived keys"
    for authenticated in (False, True):
        force(run, RunStatus.APPLY_QUEUED, authenticated=authenticated)
        assert bench.work(run.apply) is RunStatus.AWAITING_APPLY_AUTHENTICATION, "no code"
    refuse(run, bench.aws.wrong_code(), "code_refused")

    lab.authenticate(run, bench.aws.code())
    bench.aws.expire_sessions()
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert (run.error_code, run.error) == (
        "session_over", "The MFA session ended during the run. Finished resources are saved. Queue a new run.",
    )  # fmt: skip
    assert "lockstep-applies" not in bench.aws.bucket_names()

    assert [version.resources for version in db.session.query(StateVersion)] == [0]

    again = bench.run(run.configuration)
    assert bench.work(again.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION, again.error
    lab.authenticate(again, bench.aws.code())
    assert bench.work(again.apply) is RunStatus.APPLIED, again.error
    assert "lockstep-applies" in bench.aws.bucket_names()
    assert "AssumeRole" in {call.action for call in bench.aws.calls if call.outcome == "ok"}


def test_long_lived_keys_alone_do_not_reach_the_role(bench: Bench) -> None:
    run = bucket_run(bench, MfaLevel.NEVER, "lockstep-never", "bucket-assume-role")
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "role_refused"
    assert run.error.startswith("The role does not trust this user or its MFA session.")
    assert "lockstep-never" not in bench.aws.bucket_names()
    assert db.session.query(StateVersion).count() == 0
