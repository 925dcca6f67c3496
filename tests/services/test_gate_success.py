"""An accepted code: what is sealed, what is queued, what is said, and what is kept nowhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import update

from extensions import db
from models import AuditEvent, Environment, LogChunk, Outcome, Phase, PhaseStatus, Run
from policy import sts_answers
from policy.lifecycle import Event, RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Access
from services import clock, environments, evidence, members, queue, runs, sign_ins
from services.errors import CodeRejected, Conflict, Forbidden, NotFound, ServiceAway
from services.execution import ending
from services.mfa import gate, handoff, sts
from services.mfa.credentials import TemporaryCredentials
from tests import factories
from tests.support import lab
from tests.support.aws import Aws


@pytest.fixture
def environment(here: Flask, aws: Aws) -> Environment:
    """Under "plans and applies"; alice and bob each have their keys and device."""
    for name in ("alice", "bob"):
        lab.aws_keys(aws, name)
    return factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES)


def test_an_accepted_code_queues_the_phase_once(aws: Aws, environment: Environment) -> None:
    run = lab.new_run(environment)
    assert lab.status(run) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert lab.queued_jobs() == [], "nothing is queued before a code was accepted"
    code = aws.code()
    lab.authenticate(run, f" {code[:3]} {code[3:]}\n")

    assert run.status is RunStatus.PLAN_QUEUED
    assert environment.active_run_id == run.id
    assert aws.outcomes() == ["ok"]
    assert lab.queued_jobs() == [("services.execution.job.run_phase", [run.plan.id])]
    plan = run.plan
    assert plan.status is PhaseStatus.QUEUED
    assert plan.authenticated_by is not None
    assert (plan.authenticated_by.name, plan.mfa_serial) == ("alice", aws.user().mfa_serial)
    assert plan.authenticated_at is not None
    assert plan.claim is None
    assert not run.apply.authenticated_at
    lines = lab.log_of(plan).splitlines()
    assert lines[0] == "Authenticated with MFA by alice"
    assert lines[1].startswith(f"Device {aws.user().mfa_serial}, session until ")
    chunks = db.session.query(LogChunk).order_by(LogChunk.offset).all()
    assert [chunk.tone for chunk in chunks] == ["ok", "own"]
    [kept] = lab.attempts(plan)
    assert (kept.outcome, kept.reason, kept.aws_code, kept.user.name) == (Outcome.ACCEPTED, "accepted", "", "alice")
    with pytest.raises(Conflict, match=r"it is plan queued. Nothing was sent to AWS"):
        lab.authenticate(run, aws.code())
    assert aws.outcomes() == ["ok"]


def test_the_credentials_are_sealed_for_one_phase_and_read_once(aws: Aws, environment: Environment) -> None:
    environment.session_seconds = 1800
    db.session.commit()
    run = lab.new_run(environment)
    lab.authenticate(run, aws.code())
    redis, key = queue.connection(), f"lockstep:handoff:{run.plan.id}"
    sealed = redis.get(key)
    assert isinstance(sealed, bytes)
    assert 1790 <= int(redis.ttl(key)) <= 1800
    # The same envelope under another phase does not open.
    redis.set(f"lockstep:handoff:{run.apply.id}", sealed)
    assert handoff.take(run.apply.id) is None
    credentials = handoff.take(run.plan.id)
    assert credentials is not None
    assert credentials.access_key_id.startswith("ASIA")
    assert run.plan.session_expires_at == credentials.expires_at
    for part in (credentials.access_key_id, *credentials.secrets()):
        assert part.encode() not in sealed
    assert handoff.take(run.plan.id) is None
    assert redis.exists(key) == 0


def test_bob_authenticates_a_run_of_alice_with_his_own_keys_and_device(aws: Aws, environment: Environment) -> None:
    run = lab.new_run(environment, by="alice")
    lab.authenticate(run, aws.code("bob"), by="bob")
    assert [call.access_key_id for call in aws.calls] == [aws.user("bob").access_key_id]
    assert run.plan.mfa_serial == aws.user("bob").mfa_serial
    assert run.plan.actor is not None and run.plan.actor.name == "bob"
    assert lab.log_of(run.plan).startswith("Authenticated with MFA by bob\n")
    assert run.created_by.name == "alice"


def test_a_personal_device_in_the_environment_outranks_all_others(aws: Aws, environment: Environment) -> None:
    iam = aws.user("bob")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", iam.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", iam.secret_access_key),
        ("AWS_MFA_SERIAL_NUMBER", iam.mfa_serial),
    ):
        factories.variable(name, value, of=environment, owner="alice")
    run = lab.new_run(environment)
    lab.authenticate(run, aws.code("bob"))
    assert run.plan.mfa_serial == iam.mfa_serial


# -- what is kept nowhere ----------------------------------------------------------------------------------------------


def test_codes_and_credentials_are_kept_nowhere(
    aws: Aws, environment: Environment, here: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted: list[TemporaryCredentials] = []
    real = handoff.seal

    def seal(phase_id: int, credentials: TemporaryCredentials) -> None:
        minted.append(credentials)
        real(phase_id, credentials)

    monkeypatch.setattr(handoff, "seal", seal)
    caplog.set_level(logging.DEBUG)
    codes = [aws.wrong_code(), aws.code()]
    run = lab.new_run(environment, message="the marker is 739215")
    with pytest.raises(CodeRejected):
        lab.authenticate(run, codes[0])
    lab.authenticate(run, codes[1])

    kept = lab.stored(here, queue.connection())
    assert lab.holds_code(kept, "739215"), "the search would not find a code"
    said = caplog.text.encode()
    assert b"GetSessionToken" not in said
    secrets = [aws.user().secret_access_key, *minted[0].secrets()]
    for code in codes:
        assert not lab.holds_code(kept, code)
        assert not lab.holds_code(said, code)
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret.encode() not in said
    assert minted[0].access_key_id.encode() not in kept
    assert "hidden" in repr(minted[0])


@pytest.mark.parametrize("switch", ["malformed", "garbage"])
def test_a_spoilt_answer_gives_nothing_away(
    aws: Aws,
    environment: Environment,
    here: Flask,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
) -> None:
    """A ResponseParserError of botocore quotes the body, secret key included."""
    quoted: list[str] = []
    monkeypatch.setattr(sts, "StsRefused", _remembering(quoted))
    caplog.set_level(logging.DEBUG)
    run = lab.new_run(environment)
    aws.switches.set(switch, calls=1)
    code = aws.code()
    with pytest.raises(CodeRejected) as caught:
        lab.authenticate(run, code)
    canary = "SecretAccessKey" if switch == "malformed" else "hotel"
    assert canary in quoted[0], "this test would prove nothing"
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    for place in (lab.stored(here, queue.connection()), caplog.text.encode(), told.encode()):
        assert canary.encode() not in place.replace(b"AWS_SECRET_ACCESS_KEY", b"")
        assert not lab.holds_code(place, code)


def _remembering(quoted: list[str]) -> type[sts.StsRefused]:
    """StsRefused that notes the text of the exception it was raised for."""

    class Remembering(sts.StsRefused):
        def __init__(self, *arguments: object) -> None:
            import sys

            quoted.append(str(sys.exc_info()[1]))
            super().__init__(*arguments)  # type: ignore[arg-type]

    return Remembering


# -- things that happen while AWS answers ------------------------------------------------------------------------------


def slowly(aws: Aws, here: Flask, run_id: int, code: str, by: str = "alice", seconds: float = 1.0) -> lab.Beside:
    """Type a code in another thread; returns when AWS has the call and before it answers."""
    aws.switches.set("slow", seconds=seconds, calls=1)

    def submit() -> None:
        lab.authenticate(db.session.get_one(Run, run_id), code, by)

    beside = lab.Beside(here, submit)
    lab.until(lambda: aws.calls, "the call reaches AWS")
    return beside


def test_two_clicks_at_once_make_one_call(aws: Aws, environment: Environment, here: Flask) -> None:
    run = lab.new_run(environment)
    first = slowly(aws, here, run.id, aws.code())
    for by in ("alice", "bob"):
        with pytest.raises(Conflict, match=r"being checked right now. Nothing more was sent to AWS"):
            lab.authenticate(run, aws.code(by), by)
    first.result()
    db.session.refresh(run)
    assert run.status is RunStatus.PLAN_QUEUED
    assert aws.outcomes() == ["ok"]
    assert len(lab.queued_jobs()) == 1
    assert [attempt.outcome for attempt in lab.attempts(run.plan)] == [Outcome.ACCEPTED]


def test_of_many_submissions_of_one_code_one_is_sent(aws: Aws, environment: Environment, here: Flask) -> None:
    run = lab.new_run(environment)
    code, run_id = aws.code(), run.id
    db.session.commit()
    aws.switches.set("slow", seconds=0.4, calls=1)

    def submit() -> None:
        lab.authenticate(db.session.get_one(Run, run_id), code)

    crowd = [lab.Beside(here, submit) for _ in range(6)]
    errors = []
    for one in crowd:
        try:
            one.result()
        except (Conflict, CodeRejected) as error:
            errors.append(error)
    assert len(errors) == 5
    assert all(isinstance(error, Conflict) or error.reason == "already_used" for error in errors)
    assert aws.outcomes() == ["ok"]
    assert len(lab.queued_jobs()) == 1


def too_late(aws: Aws, here: Flask, run: Run, beside: lab.Beside) -> None:
    with pytest.raises(Conflict, match=r"AWS accepted the code, but the run had moved on. Nothing was started"):
        beside.result()
    db.session.expire_all()
    assert lab.queued_jobs() == []
    assert handoff.take(run.plan.id) is None
    assert run.plan.authenticated_at is None
    assert run.plan.claim is None
    assert run.plan.log_size == 0
    [kept] = lab.attempts(run.plan)
    assert (kept.outcome, kept.reason) == (Outcome.ACCEPTED, "too_late")
    assert aws.outcomes() == ["ok"]


def test_a_run_canceled_while_aws_answers_stays_canceled(aws: Aws, environment: Environment, here: Flask) -> None:
    run = lab.new_run(environment)
    beside = slowly(aws, here, run.id, aws.code())
    runs.cancel(factories.member("bob"), run)
    too_late(aws, here, run, beside)
    assert run.status is RunStatus.CANCELED


def test_a_run_that_takes_the_environment_while_aws_answers_comes_first(
    aws: Aws, environment: Environment, here: Flask
) -> None:
    waiting = lab.new_run(environment)
    environment.mfa_level = MfaLevel.NEVER
    db.session.commit()
    beside = slowly(aws, here, waiting.id, aws.code())
    other = lab.new_run(environment)
    assert environment.active_run_id == other.id
    queue.queue().empty()
    too_late(aws, here, waiting, beside)
    assert waiting.status is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert environment.active_run_id == other.id


def test_a_lock_put_on_while_aws_answers_counts(aws: Aws, environment: Environment, here: Flask) -> None:
    run = lab.new_run(environment)
    beside = slowly(aws, here, run.id, aws.code())
    environments.lock(factories.member("bob"), environment, "a fire")
    too_late(aws, here, run, beside)
    assert run.status is RunStatus.AWAITING_PLAN_AUTHENTICATION
    environments.unlock(factories.member("bob"), environment, str(environment.lock_mark))
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED


def while_aws_answers(monkeypatch: pytest.MonkeyPatch, here: Flask, act: Callable[[], Any]) -> None:
    """Do something in another session when AWS has judged the code, and before its answer is here."""
    real = sts.get_session_token

    def asked(*arguments: Any) -> TemporaryCredentials:
        try:
            return real(*arguments)
        finally:
            lab.Beside(here, act).result()

    monkeypatch.setattr(sts, "get_session_token", asked)


ENDS: dict[str, Callable[[], Any]] = {
    "withdrawn": lambda: factories.grant(factories.environment(), "bob", None),
    "for reading only": lambda: factories.grant(factories.environment(), "bob", Access.READ),
    "signed out everywhere": lambda: sign_ins.end_everywhere(factories.person("bob")),
}


@pytest.mark.parametrize("way", ENDS)
def test_access_that_ends_while_aws_answers_opens_nothing(
    aws: Aws, environment: Environment, here: Flask, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    run = lab.new_run(environment)
    while_aws_answers(monkeypatch, here, ENDS[way])
    with pytest.raises(NotFound if way == "withdrawn" else Forbidden) as caught:
        lab.authenticate(run, aws.code("bob"), "bob")
    if way != "withdrawn":
        assert str(caught.value) == sts_answers.ACCESS_ENDED.sentence
    monkeypatch.undo()
    assert lab.status(run) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert (run.plan.claim, run.plan.authenticated_at, run.plan.log_size) == (None, None, 0)
    assert environment.active_run_id is None
    assert lab.queued_jobs() == []
    assert handoff.take(run.plan.id) is None
    [kept] = lab.attempts(run.plan)
    assert (kept.user.name, kept.outcome, kept.reason) == ("bob", Outcome.ACCEPTED, "access_ended")
    lab.authenticate(run, aws.code(), "alice")
    assert run.status is RunStatus.PLAN_QUEUED


@pytest.mark.parametrize("accepted", [True, False])
def test_the_code_of_somebody_who_is_removed_while_aws_answers_is_recorded(
    aws: Aws, environment: Environment, here: Flask, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    """And its claim is taken back, so that the others need not wait."""
    run = lab.new_run(environment)
    while_aws_answers(monkeypatch, here, lambda: members.remove(factories.member("alice"), "bob"))
    with pytest.raises(NotFound):
        lab.authenticate(run, aws.code("bob") if accepted else aws.wrong_code("bob"), "bob")
    monkeypatch.undo()
    assert lab.status(run) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert (run.plan.claim, run.plan.authenticated_at) == (None, None)
    assert handoff.take(run.plan.id) is None
    [kept] = lab.attempts(run.plan)
    told = (Outcome.ACCEPTED, "access_ended") if accepted else (Outcome.REFUSED, "code_refused")
    assert (kept.user.name, kept.serial, kept.outcome, kept.reason) == ("bob", aws.user("bob").mfa_serial, *told)
    event = db.session.query(AuditEvent).filter_by(action="run.authenticate").one()
    assert (event.actor_name, event.details["reason"]) == ("bob", told[1])
    lab.authenticate(run, aws.code(), "alice")
    assert run.status is RunStatus.PLAN_QUEUED


def test_an_abandoned_claim_is_given_up_after_a_minute(aws: Aws, environment: Environment) -> None:
    """The web process died during the call."""
    run = lab.new_run(environment)
    run.plan.claim, run.plan.claim_at = "somebody", clock.now() - gate._CLAIM_LIFETIME / 2
    db.session.commit()
    with pytest.raises(Conflict, match=r"being checked right now"):
        lab.authenticate(run, aws.code())
    run.plan.claim_at = clock.now() - gate._CLAIM_LIFETIME
    db.session.commit()
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED


def test_redis_that_goes_away_while_aws_answers(
    aws: Aws, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import ConnectionError as RedisGone

    def gone(*_: object) -> None:
        raise RedisGone("Connection refused")

    run = lab.new_run(environment)
    monkeypatch.setattr(handoff, "seal", gone)
    with pytest.raises(ServiceAway, match=r"AWS accepted the code, but Redis does not answer. Nothing was started"):
        lab.authenticate(run, aws.code())
    monkeypatch.undo()
    assert run.status is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert environment.active_run_id is None
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED


def test_a_claim_counts_from_its_own_moment(
    aws: Aws, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before it, a slow Redis say, takes nothing from the time that the call has."""
    run = lab.new_run(environment)
    real, late = gate._refuse_used, clock.now() + timedelta(seconds=50)

    def slow(*arguments: Any) -> None:
        real(*arguments)
        monkeypatch.setattr(clock, "now", lambda: late)

    claimed: list[datetime | None] = []

    def asked(*_: object) -> None:
        claimed.append(db.session.get_one(Run, run.id).plan.claim_at)
        raise sts.StsRefused(sts_answers.NO_ANSWER)

    monkeypatch.setattr(gate, "_refuse_used", slow)
    monkeypatch.setattr(sts, "get_session_token", asked)
    with pytest.raises(CodeRejected):
        lab.authenticate(run, "123456")
    assert claimed == [late]


def test_no_transaction_is_open_while_aws_or_redis_is_asked(
    aws: Aws, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lab.new_run(environment)
    busy: list[str] = []
    execute, call = Redis.execute_command, sts.get_session_token

    def redis(*arguments: Any, **more: Any) -> Any:
        if db.session().in_transaction():
            busy.append(str(arguments[1]))
        return execute(*arguments, **more)

    def token(*arguments: Any) -> TemporaryCredentials:
        if db.session().in_transaction():
            busy.append("STS")
        return call(*arguments)

    monkeypatch.setattr(Redis, "execute_command", redis)
    monkeypatch.setattr(sts, "get_session_token", token)
    lab.authenticate(run, aws.code())
    assert busy == []


@pytest.mark.parametrize("at", ["the log", "the commit"])
def test_a_fault_after_aws_accepted_leaves_a_waiting_run(
    aws: Aws, environment: Environment, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    run = lab.new_run(environment)

    def fault(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    def accepted(*arguments: Any) -> None:
        if at == "the log":
            monkeypatch.setattr("services.storage.logs.say", fault)
        else:
            real = db.session.commit

            def commit() -> None:
                if queue.connection().exists(f"lockstep:handoff:{run_id}"):
                    monkeypatch.setattr(db.session, "commit", real)
                    fault()
                real()

            monkeypatch.setattr(db.session, "commit", commit)
        original(*arguments)

    run_id = run.plan.id
    original = gate._accepted
    monkeypatch.setattr(gate, "_accepted", accepted)
    with pytest.raises(OSError, match="disk is full"):
        lab.authenticate(run, aws.code())
    monkeypatch.undo()
    db.session.expire_all()
    assert run.status is RunStatus.AWAITING_PLAN_AUTHENTICATION
    assert (run.plan.claim, run.plan.authenticated_at, run.plan.queued_at) == (None, None, None)
    assert environment.active_run_id is None
    assert lab.queued_jobs() == []
    assert handoff.take(run.plan.id) is None
    assert [(a.outcome, a.reason) for a in lab.attempts(run.plan)] == [(Outcome.ACCEPTED, "too_late")]
    lab.authenticate(run, aws.code())
    assert run.status is RunStatus.PLAN_QUEUED


def test_credentials_lie_in_redis_for_an_hour_at_most(aws: Aws, environment: Environment) -> None:
    environment.session_seconds = 129_600
    db.session.commit()
    run = lab.new_run(environment)
    lab.authenticate(run, aws.code())
    assert 3590 <= int(queue.connection().ttl(f"lockstep:handoff:{run.plan.id}")) <= 3600


def test_credentials_that_lie_there_are_never_replaced(aws: Aws, environment: Environment, here: Flask) -> None:
    """Of two processes that had a code accepted for one phase, the later one loses; one that died leaves no trace."""
    run = lab.new_run(environment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "enqueue_phase", lambda _: True)
        lab.authenticate(run, aws.code())
    first = handoff.take(run.plan.id)
    assert first is not None
    handoff.seal(run.plan.id, first)
    with pytest.raises(Conflict):
        handoff.seal(run.plan.id, TemporaryCredentials("ASIAOTHER", "another", "another", first.expires_at))
    assert handoff.take(run.plan.id) == first
    other = lab.new_run(factories.environment("second", mfa_level=MfaLevel.PLANS_AND_APPLIES))
    handoff.seal(other.plan.id, first)
    lab.authenticate(other, aws.code())
    kept = handoff.take(other.plan.id)
    assert kept is not None and kept != first


def test_a_canceled_phase_leaves_no_credentials_behind(aws: Aws, environment: Environment) -> None:
    run = lab.new_run(environment)
    lab.authenticate(run, aws.code())
    runs.cancel(factories.member(), run)
    assert queue.connection().exists(f"lockstep:handoff:{run.plan.id}") == 0


def test_every_attempt_has_its_audit_event(aws: Aws, environment: Environment) -> None:
    run = lab.new_run(environment)
    for code in ("x", aws.wrong_code()):
        with pytest.raises(CodeRejected):
            lab.authenticate(run, code)
    lab.authenticate(run, aws.code())
    events = db.session.query(AuditEvent).filter_by(action="run.authenticate").order_by(AuditEvent.id).all()
    told = [(event.actor_name, event.details["outcome"], event.details["reason"]) for event in events]
    assert told == [
        ("alice", "stopped", "not_six_digits"),
        ("alice", "refused", "code_refused"),
        ("alice", "accepted", "accepted"),
    ]
    assert {event.run_id for event in events} == {run.id}


# -- a gate that closes again ------------------------------------------------------------------------------------------


def test_a_closed_gate_forgets_whom_aws_named(aws: Aws, environment: Environment) -> None:
    run = lab.new_run(environment)
    lab.authenticate(run, aws.code())
    run.plan.caller_arn = aws.user().arn
    db.session.commit()
    ending.close_gate(run.plan, Event.GATE_CLOSED, "The worker was lost.")
    assert lab.status(run) is RunStatus.AWAITING_PLAN_AUTHENTICATION
    db.session.refresh(run.plan)
    assert (run.plan.authenticated_by_id, run.plan.caller_arn) == (None, None)


def test_another_persons_code_takes_no_identity_over(aws: Aws, environment: Environment) -> None:
    """Kept from a time when a closed gate did not forget it, or written late by a worker that was thought lost."""
    run = lab.new_run(environment)
    db.session.execute(update(Phase).where(Phase.id == run.plan.id).values(caller_arn=aws.user().arn))
    db.session.commit()
    lab.authenticate(run, aws.code("bob"), "bob")
    db.session.refresh(run.plan)
    assert run.plan.authenticated_by is not None and run.plan.authenticated_by.name == "bob"
    assert run.plan.caller_arn is None
    [plan, _] = evidence.facts(run)["phases"]
    assert (plan["authenticated_by"], plan["aws_identity"]) == ("bob", None)
