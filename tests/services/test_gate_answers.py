"""Each answer of STS: one call, a reason, a row, a run that still waits and can be tried again at once."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from flask import Flask

from demo.aws import sts as demo_sts
from demo.aws.errors import AwsError
from extensions import db
from models import AuditEvent, Environment, Outcome, Run, Variable
from policy import sts_answers
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from policy.sts_answers import Answer
from services import clock, queue, variables
from services.errors import CodeRejected
from services.mfa import gate, handoff, sts
from tests import factories
from tests.support import lab
from tests.support.aws import Aws

BOB = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}


@dataclass(frozen=True)
class Row:
    """How an answer is provoked, and what it becomes."""

    answer: Answer
    outcome: Outcome
    aws_code: str
    calls: list[str]
    message: str = ""
    prepare: Callable[[Aws], None] = lambda aws: None
    variables: Callable[[Aws], dict[str, str]] = lambda aws: {}
    code: Callable[[Aws], str] = lambda aws: aws.code()
    caller: bool = False
    more: str = ""


def switch(name: str, **options: float) -> Callable[[Aws], None]:
    return lambda aws: aws.switches.set(name, calls=1, **options)  # type: ignore[arg-type]


def clock_ahead(aws: Aws) -> None:
    aws.code()  # the device's clock first: it sets the server's back to the true time
    aws.switches.set("clock_offset", seconds=aws.switches.seconds("clock_offset") + 3600)


def session_keys(aws: Aws) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": aws.user("bob").access_key_id}


ROWS = {
    "wrong code": Row(
        sts_answers.CODE_REFUSED, Outcome.REFUSED, "AccessDenied", ["AccessDenied"],
        "MultiFactorAuthentication failed with invalid MFA one time pass code.", code=lambda aws: aws.wrong_code(),
    ),
    "somebody else's device": Row(
        sts_answers.SERIAL_WRONG, Outcome.REFUSED, "AccessDenied", ["AccessDenied"],
        "MultiFactorAuthentication failed, unable to validate MFA code.",
        variables=lambda aws: {"AWS_MFA_SERIAL_NUMBER": aws.user("bob").mfa_serial},
    ),
    "unknown keys": Row(
        sts_answers.KEYS_UNKNOWN, Outcome.REFUSED, "InvalidClientTokenId", ["InvalidClientTokenId"],
        "The security token included in the request is invalid.", variables=lambda aws: BOB,
    ),
    "wrong secret": Row(
        sts_answers.SECRET_WRONG, Outcome.REFUSED, "SignatureDoesNotMatch", ["SignatureDoesNotMatch"],
        "The request signature we calculated", variables=session_keys,
    ),
    "clock": Row(
        sts_answers.CLOCK_WRONG, Outcome.REFUSED, "SignatureDoesNotMatch", ["SignatureDoesNotMatch"],
        "Signature expired", prepare=clock_ahead, code=lambda aws: "000000",
    ),
    "denied by a policy": Row(
        sts_answers.DENIED, Outcome.REFUSED, "AccessDenied", ["AccessDenied"],
        "is not authorized to perform: sts:GetSessionToken", prepare=switch("deny_session_token"), caller=True,
    ),
    "region off": Row(
        sts_answers.REGION_OFF, Outcome.REFUSED, "RegionDisabledException", ["RegionDisabledException"],
        f"({lab.REGION})", prepare=switch("region_disabled"), more=f"The region is {lab.REGION}.",
    ),
    "throttled": Row(
        sts_answers.THROTTLED, Outcome.UNANSWERED, "Throttling", ["Throttling"], "Rate exceeded",
        prepare=switch("throttle"),
    ),
    "5xx": Row(
        sts_answers.NO_ANSWER, Outcome.UNANSWERED, "InternalFailure", ["InternalFailure"], "The request processing",
        prepare=switch("error500"),
    ),
    "dropped": Row(
        sts_answers.NO_ANSWER, Outcome.UNANSWERED, "ConnectionClosedError", ["dropped"], prepare=switch("drop"),
    ),
    "too slow": Row(
        sts_answers.NO_ANSWER, Outcome.UNANSWERED, "ReadTimeoutError", ["ok"], prepare=switch("slow", seconds=1.5),
    ),
    "malformed": Row(
        sts_answers.NO_ANSWER, Outcome.UNANSWERED, "ResponseParserError", ["ok"], prepare=switch("malformed"),
    ),
    "no xml": Row(
        sts_answers.NO_ANSWER, Outcome.UNANSWERED, "ResponseParserError", ["ok"], prepare=switch("garbage"),
    ),
}  # fmt: skip


@pytest.fixture
def environment(here: Flask) -> Environment:
    return factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES)


def expect_refusal(run: Run, code: str, answer: Answer, more: str = "") -> None:
    with pytest.raises(CodeRejected) as caught:
        lab.authenticate(run, code)
    sentence = f"{answer.sentence} {more}".strip()
    assert (caught.value.reason, caught.value.status, str(caught.value)) == (answer.reason, 422, sentence)


@pytest.mark.parametrize("name", ROWS)
def test_each_answer(aws: Aws, environment: Environment, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    row = ROWS[name]
    monkeypatch.setattr(sts, "READ_SECONDS", 0.4)
    lab.aws_keys(aws, **row.variables(aws))
    run = lab.new_run(environment)
    row.prepare(aws)
    expect_refusal(run, row.code(aws), row.answer, row.more)

    assert aws.outcomes() == row.calls, "exactly one call, no retry"
    [kept] = lab.attempts(run.plan)
    assert (kept.outcome, kept.reason, kept.aws_code) == (row.outcome, row.answer.reason, row.aws_code)
    assert kept.aws_message.startswith(row.message) if row.message.startswith("M") else row.message in kept.aws_message
    assert bool(kept.aws_message) == bool(row.message), "the words of what was no AWS error are not kept"
    assert (kept.user.name, kept.phase_id, kept.session_expires_at) == ("alice", run.plan.id, None)
    assert kept.serial == row.variables(aws).get("AWS_MFA_SERIAL_NUMBER", aws.user().mfa_serial)
    assert kept.caller_arn == (aws.user().arn if row.caller else None)
    event = db.session.query(AuditEvent).filter_by(action="run.authenticate").one()
    assert event.details == {
        "phase": "plan", "device": kept.serial, "outcome": row.outcome.value, "reason": row.answer.reason,
    }  # fmt: skip

    db.session.refresh(run.plan)
    assert run.status is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert (run.plan.claim, run.plan.claim_at, run.plan.authenticated_at) == (None, None, None)
    assert run.plan.log_size == 0
    assert handoff.take(run.plan.id) is None
    assert lab.queued_jobs() == []


UNSUITABLE = (
    "1 validation error detected: Value '{code}' at 'tokenCode' failed to satisfy constraint: Member must have length "
    "less than or equal to 5"
)
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
CANONICAL = "The Canonical String for this request should have been\n'POST\n/\n\nhost:sts\n\nhost\n{digest}'"


@pytest.mark.parametrize(
    ("aws_code", "said", "kept_code", "words"),
    [
        ("ValidationError", UNSUITABLE, "ValidationError", UNSUITABLE.format(code=sts.MASK)),
        ("ValidationError", "x" * 497 + "{code}", "ValidationError", "x" * 497 + sts.MASK),
        ("AccessDenied", "No {code}, {code}!", "AccessDenied", f"No {sts.MASK}, {sts.MASK}!"),
        ("Odd{code}", "Never heard of {code}.", f"Odd{sts.MASK}", ""),
        ("SignatureDoesNotMatch", f"{MISMATCH}\n\n{CANONICAL}", "SignatureDoesNotMatch", MISMATCH),
        ("SignatureDoesNotMatch", f"{MISMATCH} {CANONICAL}", "SignatureDoesNotMatch", MISMATCH),
        ("SignatureDoesNotMatch", "It hashes to {digest}.", "SignatureDoesNotMatch", f"It hashes to {sts.MASK}."),
    ],
)
def test_no_answer_of_aws_leaves_the_code_anywhere(
    aws: Aws, environment: Environment, here: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    aws_code: str, said: str, kept_code: str, words: str,
) -> None:  # fmt: skip
    """Whatever AWS quotes of the request: six digits are found by trial from a hash of it."""
    code, digest = aws.code(), hashlib.sha256(b"a request").hexdigest()

    def quoting(*_: object, **__: object) -> None:
        raise AwsError(400, aws_code.format(code=code), said.format(code=code, digest=digest))

    monkeypatch.setattr(demo_sts.Sts, "_session_token", quoting)
    caplog.set_level("DEBUG")
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    with pytest.raises(CodeRejected) as caught:
        lab.authenticate(run, code)
    [kept] = lab.attempts(run.plan)
    assert (kept.aws_code, kept.aws_message) == (kept_code, words)
    everything = lab.stored(here, queue.connection()) + f"{caught.value} {caplog.text}".encode()
    assert not lab.holds_code(everything, code) and digest.encode() not in everything


def test_a_new_code_can_be_tried_at_once(aws: Aws, environment: Environment) -> None:
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    for _ in range(2):
        expect_refusal(run, aws.wrong_code(), sts_answers.CODE_REFUSED)
    aws.switches.set("throttle", calls=1)
    expect_refusal(run, aws.code(), sts_answers.THROTTLED)
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED
    assert aws.outcomes() == ["AccessDenied", "AccessDenied", "Throttling", "ok"]
    reasons = [attempt.reason for attempt in lab.attempts(run.plan)]
    assert reasons == ["code_refused", "code_refused", "throttled", "accepted"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.answer is sts_answers.NO_ANSWER])
def test_a_code_whose_answer_was_lost_is_not_sent_again(
    aws: Aws, environment: Environment, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """AWS may have taken it."""
    monkeypatch.setattr(sts, "READ_SECONDS", 0.4)
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    ROWS[name].prepare(aws)
    code = aws.code()
    expect_refusal(run, code, sts_answers.NO_ANSWER)
    with pytest.raises(CodeRejected, match=r"This code was already sent to AWS. It was not sent again. Next code in"):
        lab.authenticate(run, code)
    assert aws.outcomes() == ROWS[name].calls
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED


def test_a_code_that_aws_had_no_time_for_can_be_sent_again(aws: Aws, environment: Environment) -> None:
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    aws.switches.set("throttle", calls=1)
    code = aws.code()
    expect_refusal(run, code, sts_answers.THROTTLED)
    lab.authenticate(run, code)
    assert run.status is RunStatus.PLAN_QUEUED


def test_five_wrong_codes_are_the_most(aws: Aws, environment: Environment) -> None:
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    for _ in range(5):
        expect_refusal(run, aws.wrong_code(), sts_answers.CODE_REFUSED)
    with pytest.raises(CodeRejected, match=r"Too many refused codes") as caught:
        lab.authenticate(run, aws.code())
    assert caught.value.status == 429
    assert len(aws.outcomes()) == 5


def test_temporary_keys_as_variables(aws: Aws, environment: Environment, here: Flask) -> None:
    """Keys of a session without its token; STS knows neither whose they are nor gives a session for them."""
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    lab.authenticate(run, aws.code())
    credentials = handoff.take(run.plan.id)
    assert credentials is not None
    keys = sts.LongLivedKeys(credentials.access_key_id, credentials.secret_access_key, aws.user().mfa_serial, None)
    with pytest.raises(sts.StsRefused) as caught:
        sts.get_session_token(here.config["LOCKSTEP"], keys, aws.code(), 900)
    assert caught.value.answer in (sts_answers.KEYS_UNKNOWN, sts_answers.TEMPORARY_KEYS)


def test_nothing_listens(aws: Aws, environment: Environment, here: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    elsewhere = dataclasses.replace(here.config["LOCKSTEP"], operator={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    monkeypatch.setitem(here.config, "LOCKSTEP", elsewhere)
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    expect_refusal(run, "123456", sts_answers.UNREACHABLE)
    [kept] = lab.attempts(run.plan)
    assert (kept.outcome, kept.aws_code) == (Outcome.UNANSWERED, "EndpointConnectionError")


@pytest.mark.parametrize("region", ["123", "us-east-1-", "-x"])
def test_a_region_that_is_none_costs_no_call(aws: Aws, environment: Environment, region: str) -> None:
    """Kept from a time before its form was checked."""
    lab.aws_keys(aws)
    kept = db.session.query(Variable).filter_by(name="AWS_REGION").one()
    kept.value = variables._vault().encrypt(region.encode(), kept.context)
    db.session.commit()
    run = lab.new_run(environment)
    expect_refusal(run, aws.code(), sts_answers.REGION_WRONG, f"The region is {region}.")
    [attempt] = lab.attempts(run.plan)
    assert (attempt.outcome, attempt.reason) == (Outcome.STOPPED, "region_wrong")
    assert aws.outcomes() == []


def test_an_endpoint_that_is_none_costs_no_call(
    aws: Aws, environment: Environment, here: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = dataclasses.replace(here.config["LOCKSTEP"], operator={"AWS_ENDPOINT_URL": "no address"})
    monkeypatch.setitem(here.config, "LOCKSTEP", elsewhere)
    lab.aws_keys(aws)
    run = lab.new_run(environment)
    expect_refusal(run, "123456", sts_answers.UNREACHABLE)
    assert [attempt.outcome for attempt in lab.attempts(run.plan)] == [Outcome.STOPPED]


# -- the device, the region, the length of the session -----------------------------------------------------------------


def test_the_session_lasts_as_long_as_the_environment_says(aws: Aws, environment: Environment) -> None:
    lab.aws_keys(aws)
    for seconds in (900, 129_600):
        environment.session_seconds = seconds
        db.session.commit()
        run = lab.new_run(environment)
        before = clock.now()
        lab.authenticate(run, aws.code())
        after = clock.now()
        assert run.plan.session_expires_at is not None
        began = run.plan.session_expires_at - timedelta(seconds=seconds)
        assert before - timedelta(seconds=1) <= began <= after + timedelta(seconds=1)
        assert run.plan.session_seconds == seconds
        [kept] = lab.attempts(run.plan)
        assert kept.session_expires_at == run.plan.session_expires_at
        environment.active_run_id = None
        db.session.commit()


@pytest.mark.parametrize(
    ("serial", "variables", "region"),
    [
        ("arn:aws:iam::123456789012:mfa/alice", {}, "us-east-1"),
        ("GAHT12345678", {}, "us-east-1"),
        ("arn:aws-us-gov:iam::123456789012:mfa/alice", {}, "us-gov-west-1"),
        ("arn:aws-cn:iam::123456789012:mfa/alice", {}, "cn-north-1"),
        ("arn:aws:iam::123456789012:mfa/alice", {"AWS_DEFAULT_REGION": "eu-central-1"}, "eu-central-1"),
        (
            "arn:aws:iam::123456789012:mfa/alice",
            {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_REGION": "ap-east-1"},
            "ap-east-1",
        ),
    ],
)
def test_the_region_is_the_variables_own_else_the_partitions(
    aws: Aws,
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    serial: str,
    variables: dict[str, str],
    region: str,
) -> None:
    # What the web process itself was started with has no say.
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "sa-east-1")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody-else")
    asked: list[str] = []
    real = sts._client

    def client(*arguments: object) -> object:
        asked.append(str(arguments[-1]))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sts, "_client", client)
    lab.aws_keys(aws, without="AWS_REGION", AWS_MFA_SERIAL_NUMBER=serial, **variables)
    run = lab.new_run(environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_accepted", lambda *_: None)
        if serial == aws.user().mfa_serial:
            lab.authenticate(run, aws.code())
        else:
            expect_refusal(run, aws.code(), sts_answers.SERIAL_WRONG)
    assert asked == [region]
    assert len(aws.outcomes()) == 1
