"""Everything that can be refused before a code is spent is refused before AWS is asked, and in this order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from flask import Flask
from redis import Redis
from redis.exceptions import ConnectionError as RedisGone

from extensions import db
from models import MfaAttempt, Outcome, PhaseStatus, Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Access
from services import clock, environments, queue, runs
from services.errors import CodeRejected, Conflict, Forbidden, ServiceAway, TooManyAttempts
from services.mfa import gate
from tests import factories
from tests.support import lab
from tests.support.aws import Aws

WAITING = RunStatus.AWAITING_PLAN_AUTHENTICATION


@pytest.fixture
def run(here: Flask, aws: Aws) -> Run:
    """A run of alice that awaits a code for its plan; alice and bob each have their keys and device."""
    for name in ("alice", "bob"):
        lab.aws_keys(aws, name)
    return lab.new_run(factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES))


@pytest.fixture(autouse=True)
def nothing_spent(aws: Aws) -> Iterator[None]:
    """No test of this file may make a call that it does not clear itself."""
    yield
    assert aws.outcomes() == []


def refused(run: Run, code: str, by: str = "alice") -> CodeRejected:
    with pytest.raises(CodeRejected) as caught:
        lab.authenticate(run, code, by)
    assert run.status is WAITING
    assert run.plan.claim is None
    assert run.plan.status is PhaseStatus.WAITING
    return caught.value


def attempt(run: Run) -> MfaAttempt:
    """The last attempt."""
    return lab.attempts(run.plan)[-1]


def test_whoever_may_not_write_is_stopped_first(run: Run) -> None:
    factories.grant(run.environment, "bob", Access.READ)
    factories.lock("Freeze")
    run.status = RunStatus.PENDING
    db.session.commit()
    with pytest.raises(Forbidden, match=r"cannot authenticate"):
        lab.authenticate(run, "not a code", "bob")
    assert lab.attempts(run.plan) == []


def test_only_a_waiting_run_takes_a_code(run: Run, aws: Aws) -> None:
    for status in [status for status in RunStatus if status.awaited_phase is None]:
        run.status = status
        factories.lock("Freeze")
        db.session.commit()
        with pytest.raises(Conflict, match=rf"it is {status.words.lower()}. Nothing was sent to AWS"):
            lab.authenticate(run, aws.code())
        assert run.status is status
    assert lab.attempts(run.plan) == []


def test_a_manual_lock_comes_before_the_code_is_looked_at(run: Run) -> None:
    environments.lock(factories.member("bob"), run.environment, "moving the network")
    with pytest.raises(Conflict, match=r"network is locked by bob: moving the network"):
        lab.authenticate(run, "no digits")
    assert lab.attempts(run.plan) == []
    assert run.status is WAITING


def test_a_run_that_holds_the_environment_comes_first(run: Run, aws: Aws) -> None:
    run.environment.mfa_level = MfaLevel.NEVER
    db.session.commit()
    other = lab.new_run(run.environment)
    with pytest.raises(Conflict, match=rf"Run #{other.number} holds network. Nothing was sent to AWS"):
        lab.authenticate(run, aws.code())
    runs.cancel(factories.member(), other)
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED
    assert aws.outcomes() == ["ok"]
    aws.reset()


NOT_A_CODE = (
    "", " ", "12345", "1234567", "12345a", "abcdef", "１２３４５６", "١٢٣٤٥٦", "123456\x00", "+12345", "-123456x",
    "123.456", "1e5000", "0x1234", "12345６", "123456\n123456", "²²²²²²", "123456" * 1000,
)  # fmt: skip


def test_whatever_is_not_six_ascii_digits_is_refused(run: Run) -> None:
    for typed in NOT_A_CODE:
        error = refused(run, typed)
        assert (error.reason, error.status) == ("not_six_digits", 422), ascii(typed)
        assert "Enter the 6 digits" in str(error)
    kept = lab.attempts(run.plan)
    assert len(kept) == len(NOT_A_CODE)
    assert {(a.outcome, a.reason, a.user.name) for a in kept} == {(Outcome.STOPPED, "not_six_digits", "alice")}


def test_the_digits_come_before_limit_and_variables(run: Run) -> None:
    judged_failures(run, 5)
    assert refused(run, "12345").reason == "not_six_digits"


def test_the_limit_comes_before_missing_variables(here: Flask, aws: Aws) -> None:
    waiting = lab.new_run(factories.environment("bare", mfa_level=MfaLevel.PLANS_AND_APPLIES))
    judged_failures(waiting, 5)
    assert refused(waiting, "123456").reason == "too_many"


def test_each_missing_variable_is_named(here: Flask, aws: Aws) -> None:
    waiting = lab.new_run(factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES))
    iam = aws.user()
    values = {
        "AWS_ACCESS_KEY_ID": iam.access_key_id,
        "AWS_SECRET_ACCESS_KEY": iam.secret_access_key,
        "AWS_MFA_SERIAL_NUMBER": iam.mfa_serial,
    }
    missing = list(values)
    while missing:
        error = refused(waiting, aws.code())
        assert error.reason == "variables_missing"
        assert str(error).endswith(f"Nothing was sent to AWS. Not set: {', '.join(missing)}.")
        assert attempt(waiting).outcome is Outcome.STOPPED
        factories.variable(missing[0], values[missing.pop(0)], owner="alice")


def test_the_variables_are_those_of_the_person_who_acts(here: Flask, aws: Aws) -> None:
    lab.aws_keys(aws, "alice")
    waiting = lab.new_run(factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES), by="alice")
    error = refused(waiting, aws.code(), by="bob")
    assert "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_MFA_SERIAL_NUMBER" in str(error)


# -- the limit of attempts ---------------------------------------------------------------------------------------------


def judged_failures(
    run: Run, count: int, *, by: str = "alice", serial: str = "arn:aws:iam::123456789012:mfa/alice",
    ago: timedelta = timedelta(minutes=1), outcome: Outcome = Outcome.REFUSED, reason: str = "code_refused",
) -> None:  # fmt: skip
    """Attempts as AWS's refusals leave them."""
    for number in range(count):
        at = clock.now() - ago + timedelta(seconds=number)
        row = MfaAttempt(phase_id=run.plan.id, user_id=factories.person(by).id, serial=serial, at=at,
                         outcome=outcome, reason=reason)  # fmt: skip
        db.session.add(row)
    db.session.commit()


def move_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    real = clock.now

    def moved() -> datetime:
        return real() + by

    monkeypatch.setattr(clock, "now", moved)


def test_after_five_judged_codes_a_person_waits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_failures(run, 5, serial="arn:aws:iam::123456789012:mfa/an-older-device")
    error = refused(run, "123456")
    assert isinstance(error, TooManyAttempts)
    assert (error.status, error.reason) == (429, "too_many")
    assert error.waiting is not None and 13 * 60 < error.waiting <= 14 * 60
    assert str(error) == "Too many refused codes. Nothing was sent to AWS. Try again in 14 min."
    assert attempt(run).outcome is Outcome.STOPPED
    # Stopped attempts do not prolong the wait, and 15 minutes after the first failure it is over.
    for _ in range(6):
        refused(run, "123456")
    move_clock(monkeypatch, timedelta(minutes=14, seconds=2))
    assert gate_passes(run)


def test_the_wait_lasts_until_the_oldest_of_five_is_fifteen_minutes_old(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_failures(run, 5)
    move_clock(monkeypatch, timedelta(minutes=13, seconds=50))
    assert refused(run, "123456").reason == "too_many"


def test_another_person_with_the_same_device_waits_too(run: Run, aws: Aws) -> None:
    serial = aws.user("bob").mfa_serial
    judged_failures(run, 5, by="alice", serial=serial)
    assert refused(run, "123456", by="bob").reason == "too_many"


def test_four_failures_are_allowed(run: Run) -> None:
    judged_failures(run, 4)
    assert gate_passes(run)


def test_whatever_aws_refuses_counts_for_the_person(run: Run) -> None:
    for reason in ("code_refused", "serial_wrong", "keys_unknown", "secret_wrong", "denied"):
        judged_failures(run, 1, reason=reason, serial="arn:aws:iam::123456789012:mfa/another")
    assert refused(run, "123456").reason == "too_many"


def test_only_refused_codes_count_for_the_device(run: Run, aws: Aws) -> None:
    """Anybody can name another person's device beside keys of their own; AWS then refuses the device, not the code."""
    serial = aws.user().mfa_serial
    for reason in ("serial_wrong", "keys_unknown", "secret_wrong", "denied"):
        judged_failures(run, 5, by="bob", serial=serial, reason=reason)
    assert gate_passes(run)


def test_what_aws_gave_no_verdict_on_does_not_count(run: Run) -> None:
    for outcome, reason in (
        (Outcome.UNANSWERED, "no_answer"),
        (Outcome.UNANSWERED, "throttled"),
        (Outcome.STOPPED, "not_six_digits"),
        (Outcome.STOPPED, "already_used"),
        (Outcome.ACCEPTED, "accepted"),
    ):
        judged_failures(run, 6, outcome=outcome, reason=reason)
        assert gate_passes(run), reason


def claimed(by: str, serial: str, count: int) -> list[Run]:
    """Runs whose codes are with AWS at this moment."""
    found = []
    for number in range(count):
        other = lab.new_run(factories.environment(f"busy{number}", mfa_level=MfaLevel.PLANS_AND_APPLIES), by=by)
        person = factories.person(by)
        gate._claim(gate._Try(person, person.session_epoch, other, other.plan, serial, clock.now()))
        found.append(other)
    return found


@pytest.mark.parametrize("same", ["person", "device"])
def test_codes_that_are_with_aws_count_as_if_they_were_refused(run: Run, aws: Aws, same: str) -> None:
    serial = aws.user().mfa_serial
    by, device = ("alice", "another-device") if same == "person" else ("bob", serial)
    judged_failures(run, 3, by=by, serial=device)
    one, *_ = claimed(by, device, 2)
    with pytest.raises(Conflict, match=r"codes of yours are being checked right now. Nothing was sent to AWS"):
        lab.authenticate(run, "123456")
    assert lab.status(run) is WAITING
    assert run.plan.claim is None
    one.plan.claim_at = clock.now() - gate._CLAIM_LIFETIME
    db.session.commit()
    assert gate_passes(run)


def test_failures_of_others_with_their_own_devices_do_not_count(run: Run, aws: Aws) -> None:
    judged_failures(run, 20, by="bob", serial=aws.user("bob").mfa_serial)
    assert gate_passes(run)


class Reached(Exception):
    """The call to AWS would be made now."""


def gate_passes(run: Run) -> bool:
    """Whether nothing stops a code before AWS is asked; AWS is not asked."""
    with pytest.MonkeyPatch.context() as patch:

        def reached(*_: object) -> None:
            raise Reached

        patch.setattr("services.mfa.sts.get_session_token", reached)
        with pytest.raises(Reached):
            lab.authenticate(run, "123456")
    db.session.refresh(run.plan)
    assert run.plan.claim is None, "a fault must not leave the gate claimed"
    return True


# -- codes used already, Redis away ------------------------------------------------------------------------------------


def test_a_code_is_not_sent_twice_for_one_device(run: Run, aws: Aws) -> None:
    code = aws.code()
    lab.authenticate(run, code)
    assert aws.outcomes() == ["ok"]
    aws.reset()
    other = lab.new_run(factories.environment("second", mfa_level=MfaLevel.PLANS_AND_APPLIES))
    error = refused(other, code)
    assert error.reason == "already_used"
    assert error.waiting is not None and 1 <= error.waiting <= 30
    assert str(error) == f"This code was already sent to AWS. It was not sent again. Next code in {error.waiting} s."
    assert attempt(other).outcome is Outcome.STOPPED


def test_the_code_of_the_plan_does_not_open_the_apply(run: Run, aws: Aws) -> None:
    code = aws.code()
    lab.authenticate(run, code)
    aws.reset()
    run.status = RunStatus.AWAITING_APPLY_AUTHENTICATION
    db.session.commit()
    with pytest.raises(CodeRejected, match=r"already sent"):
        lab.authenticate(run, f"{code[:3]} {code[3:]}")
    assert run.status is RunStatus.AWAITING_APPLY_AUTHENTICATION


def test_the_same_digits_of_another_device_are_another_code(run: Run, aws: Aws) -> None:
    code = aws.code("alice")
    lab.authenticate(run, code)
    aws.reset()
    other = lab.new_run(factories.environment("second", mfa_level=MfaLevel.PLANS_AND_APPLIES), by="bob")
    with pytest.raises(CodeRejected) as caught:
        lab.authenticate(other, code, "bob")
    assert caught.value.reason == "code_refused"
    assert aws.outcomes() == ["AccessDenied"]
    aws.reset()


def test_without_redis_aws_is_not_asked(run: Run, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RedisGone("Connection refused")

    monkeypatch.setattr(Redis, "execute_command", gone)
    with pytest.raises(ServiceAway, match=r"Nothing was sent to AWS; the code is not used up"):
        lab.authenticate(run, aws.code())
    monkeypatch.undo()
    assert run.status is WAITING
    assert queue.connection().ping()
