"""Each answer of STS through the form of the run page: what the person reads, what is kept, what is nowhere.

The client is real up to the wire, so that words, signatures and logs are those of a real call; the answers are made
up here. tests/services/test_gate_answers.py provokes them at the stand-in.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from flask import Flask
from markupsafe import escape
from sqlalchemy import select

from extensions import db
from models import MfaAttempt, Outcome, PhaseStatus, Run, Variable
from policy import sts_answers
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel, PhaseKind
from policy.sts_answers import Answer
from services import variables
from services.mfa import sts
from tests import factories
from tests.factories import World
from tests.support import lab
from tests.support.client import Client
from tests.web import run_stories as stories

CODE, SECOND_CODE = "482915", "730164"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
ERROR = (
    '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    "<Code>{}</Code><Message>{}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
)


@dataclass(frozen=True)
class Case:
    """What AWS does, and which answer that is. ``error`` is raised in place of one; ``region`` is the variable's."""

    answer: Answer
    code: str
    message: str = ""
    status: int = 400
    error: type[EndpointConnectionError | ReadTimeoutError] | None = None
    region: str = "eu-west-1"

    @property
    def outcome(self) -> Outcome:
        if self.answer is sts_answers.REGION_WRONG:
            return Outcome.STOPPED
        return Outcome.UNANSWERED if self.answer in sts_answers.UNANSWERED else Outcome.REFUSED


#: Each code of each row of the policy's table, so that a new row is tried here without a word.
CASES = [
    Case(answer, code, f"Words of AWS: {part}.", 500 if answer is sts_answers.NO_ANSWER else 400)
    for codes, part, answer in sts_answers._TABLE
    for code in sorted(codes)
] + [
    Case(sts_answers.UNKNOWN, "SomethingNew", "Words of AWS."),
    Case(sts_answers.NO_ANSWER, "SomethingNew", "Words of AWS.", 503),
    Case(sts_answers.UNREACHABLE, "EndpointConnectionError", error=EndpointConnectionError),
    Case(sts_answers.NO_ANSWER, "ReadTimeoutError", error=ReadTimeoutError),
    Case(sts_answers.REGION_WRONG, "", region="us-east-1-"),
]  # fmt: skip

GATES = (RunStatus.AWAITING_PLAN_AUTHENTICATION, RunStatus.AWAITING_APPLY_AUTHENTICATION)


class Body(io.BytesIO):
    """A body as botocore reads one."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], list[str]]:
    """AWS answers as the case says; returns the list of what is sent to it."""

    def answering(case: Case) -> list[str]:
        sent: list[str] = []
        real = sts._client

        def send(request: Any, **_: Any) -> Any:
            sent.append(str(request.body))
            if case.error is not None:
                raise case.error(endpoint_url=request.url)
            body = Body(ERROR.format(case.code, case.message).encode())
            return AWSResponse(request.url, case.status, HTTPHeaders(), body)

        def client(*arguments: Any) -> Any:
            made = real(*arguments)
            made.meta.events.register("before-send.sts.GetSessionToken", send)
            return made

        monkeypatch.setattr(sts, "_client", client)
        return sent

    return answering


def test_every_answer_that_sts_can_give_is_among_them() -> None:
    """The others are refused before anything is sent, or come after AWS has accepted the code."""
    before = {sts_answers.TOO_MANY, sts_answers.VARIABLES_MISSING, sts_answers.ALREADY_USED}
    after = {sts_answers.TOO_LATE, sts_answers.ACCESS_ENDED}
    assert {case.answer for case in CASES} == set(sts_answers.ALL.values()) - before - after


def keys_and_region(region: str) -> None:
    """A region that is none may be kept from a time before its form was checked."""
    stories.keys_for("alice")
    factories.variable("AWS_REGION", "eu-west-1", owner="alice")
    kept = db.session.scalars(select(Variable).where(Variable.name == "AWS_REGION")).one()
    kept.value = variables._vault().encrypt(region.encode(), kept.context)
    db.session.commit()


@pytest.mark.parametrize("waiting", GATES)
@pytest.mark.parametrize("case", CASES[:1])
def test_at_either_gate(
    app: Flask, alice: Client, world: World, asked: Callable[[Case], list[str]], waiting: RunStatus, case: Case
) -> None:
    with app.app_context():
        keys_and_region(case.region)
        stories.story(factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES), waiting)
    asked(case)
    assert alice.submit(f"{world.path}/changes/runs/1/authenticate", {"token": CODE}).status_code == 422
    with app.app_context():
        run = db.session.scalars(select(Run)).one()
        [kept] = db.session.scalars(select(MfaAttempt).where(MfaAttempt.outcome == Outcome.REFUSED))
        assert run.status is waiting and kept.phase_id == run.phase(waiting.awaited_phase or PhaseKind.PLAN).id


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.answer.reason}-{case.code}-{case.message[14:]}")
def test_each_answer(
    app: Flask,
    alice: Client,
    world: World,
    asked: Callable[[Case], list[str]],
    caplog: pytest.LogCaptureFixture,
    case: Case,
) -> None:
    with app.app_context():
        keys_and_region(case.region)
        stories.story(
            factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES), RunStatus.AWAITING_PLAN_AUTHENTICATION
        )
    sent = asked(case)
    path = f"{world.path}/changes/runs/1"
    caplog.set_level(logging.DEBUG)
    as_page, as_fragment = (
        alice.submit(f"{path}/authenticate", {"token": code}, headers=headers)
        for code, headers in ((CODE, {}), (SECOND_CODE, {"HX-Request": "true"}))
    )
    page, fragment, later = (answer.get_data(as_text=True) for answer in (as_page, as_fragment, alice.get(path)))

    assert (as_page.status_code, as_fragment.status_code) == (422, 422)
    assert "<html" in page and "<html" not in fragment
    for shown in (page, fragment):
        alert = shown.split('role="alert" id="token-error"')[1].split("</div>")[0]
        assert str(escape(case.answer.title)) in alert and str(escape(case.answer.advice)) in alert
        assert ("AWS answered" in alert) is bool(case.code) and case.code in alert and case.message in alert
        names_it = case.answer in (sts_answers.REGION_OFF, sts_answers.REGION_WRONG)
        assert (f"The region is {case.region}." in alert) is names_it
        field = shown.split('id="token"')[1].split(">")[0]
        assert "value=" not in field and 'aria-invalid="true"' in field
    for shown in (page, fragment, later):
        lock = shown.split("status-auth-failed")[1].split("</span>")[0]
        assert "Authentication failed" in lock and str(escape(case.answer.title)) in shown

    with app.app_context():
        run = db.session.scalars(select(Run)).one()
        assert run.status is RunStatus.AWAITING_PLAN_AUTHENTICATION and lab.queued_jobs() == []
        assert (run.plan.status, run.plan.authenticated_at, run.plan.claim) == (PhaseStatus.WAITING, None, None)
        attempts = lab.attempts(run.plan)
        assert len(attempts) == 2
        for kept in attempts:
            assert (kept.user.name, kept.serial) == ("alice", stories.SERIAL)
            assert (kept.outcome, kept.reason, kept.aws_code) == (case.outcome, case.answer.reason, case.code)

    codes = [] if case.outcome is Outcome.STOPPED else [CODE, SECOND_CODE]
    assert len(sent) == len(codes), "one call a code, no retry"
    assert all(f"TokenCode={code}" in body for code, body in zip(codes, sent, strict=True))
    for text in (page, fragment, later, caplog.text):
        assert not any(secret in text for secret in (CODE, SECOND_CODE, KEY, SECRET, SECRET.partition("/")[0]))
