"""The buttons of the run page, as a fragment and as a plain form."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from extensions import db
from models import AuditEvent, MfaAttempt, Run
from policy import sts_answers
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Access
from services import clock, members, sign_ins
from services.mfa import sts
from services.mfa.credentials import TemporaryCredentials
from tests import factories
from tests.factories import World
from tests.support import lab
from tests.support.client import Client
from tests.web import run_stories as stories

S = RunStatus
HTMX = {"HX-Request": "true"}
CODE = "482915"


def tell(app: Flask, status: S, level: MfaLevel = MfaLevel.APPLIES_ONLY, by: str = "alice") -> None:
    with app.app_context():
        stories.keys_for(by)
        stories.story(factories.environment(mfa_level=level), status)


def act(client: Client, world: World, what: str, data: dict[str, str] | None = None, **options: object) -> TestResponse:
    return client.submit(f"{world.path}/changes/runs/1/{what}", data, **options)


def status_of(app: Flask, number: int = 1) -> S:
    with app.app_context():
        return db.session.scalars(select(Run.status).where(Run.number == number)).one()


@pytest.fixture
def aws_accepts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """STS takes every code; the codes that it was asked about."""
    asked: list[str] = []

    def answer(_config: object, _keys: object, code: str, seconds: int) -> TemporaryCredentials:
        asked.append(code)
        return TemporaryCredentials(
            "ASIAEXAMPLE", "secret-of-aws", "token-of-aws", clock.now() + timedelta(seconds=seconds)
        )

    monkeypatch.setattr(sts, "get_session_token", answer)
    return asked


@pytest.fixture
def aws_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_args: object) -> None:
        said = "MultiFactorAuthentication failed with invalid MFA one time pass code. "
        raise sts.StsRefused(sts_answers.CODE_REFUSED, "AccessDenied", said)

    monkeypatch.setattr(sts, "get_session_token", answer)


def test_a_code_as_a_plain_form(app: Flask, alice: Client, world: World, aws_accepts: list[str]) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    answer = act(alice, world, "authenticate", {"token": " 482 915 "})
    assert answer.status_code == 303 and answer.headers["Location"] == f"{world.path}/changes/runs/1"
    assert aws_accepts == [CODE] and status_of(app) is S.APPLY_QUEUED
    page = alice.get(answer.headers["Location"]).get_data(as_text=True)
    assert page.count("Authenticated with MFA by alice") >= 3
    assert CODE not in page and "secret-of-aws" not in page and "token-of-aws" not in page


def test_a_code_as_a_fragment(app: Flask, alice: Client, world: World, aws_accepts: list[str]) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    answer = act(alice, world, "authenticate", {"token": CODE, "plan_at": "0"}, headers=HTMX)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200 and "<html" not in page
    assert 'id="gate"' in page and "gate-authenticated" in page and '"innerHTML:#status"' in page
    assert page.count('id="apply-log"') == 1 and 'id="plan-log"' not in page
    assert CODE not in page


@pytest.mark.parametrize("fragment", [True, False])
def test_a_refused_code(app: Flask, alice: Client, world: World, aws_refuses: None, fragment: bool) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    answer = act(alice, world, "authenticate", {"token": CODE}, headers=HTMX if fragment else {})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422 and ("<html" not in page) is fragment
    assert page.count("Authentication failed") >= 3
    assert "AWS did not accept that code." in page and "<code>AccessDenied</code>" in page
    field = page.split('id="token"')[1].split(">")[0]
    assert "autofocus" in field and "value=" not in field and 'aria-invalid="true"' in field
    assert CODE not in page and status_of(app) is S.AWAITING_APPLY_AUTHENTICATION


ENDS: dict[str, Callable[[], object]] = {
    "withdrawn": lambda: factories.grant(factories.environment(), "bob", None),
    "for reading only": lambda: factories.grant(factories.environment(), "bob", Access.READ),
    "signed out everywhere": lambda: sign_ins.end_everywhere(factories.person("bob")),
}


def meanwhile(app: Flask, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen in another session before STS answers."""
    answer = sts.get_session_token

    def slow(*arguments: Any) -> TemporaryCredentials:
        lab.Beside(app, happens).result()
        return answer(*arguments)

    monkeypatch.setattr(sts, "get_session_token", slow)


@pytest.mark.parametrize("fragment", [True, False])
@pytest.mark.parametrize("end", ENDS)
def test_who_lost_access_while_aws_answered_reads_so(
    app: Flask, bob: Client, world: World, aws_accepts: list[str], monkeypatch: pytest.MonkeyPatch, end: str,
    fragment: bool,
) -> None:  # fmt: skip
    tell(app, S.AWAITING_APPLY_AUTHENTICATION, by="bob")
    meanwhile(app, monkeypatch, ENDS[end])
    answer = act(bob, world, "authenticate", {"token": CODE}, headers=HTMX if fragment else {})
    page = answer.get_data(as_text=True)
    assert answer.status_code == (404 if end == "withdrawn" else 403)
    assert ("AWS accepted the code, but whoever sent it lost access" in page) is (end != "withdrawn")
    assert aws_accepts == [CODE] and status_of(app) is S.AWAITING_APPLY_AUTHENTICATION


@pytest.mark.parametrize("end", ENDS)
def test_who_lost_access_before_aws_refused_reads_nothing_of_the_run(
    app: Flask, bob: Client, world: World, aws_refuses: None, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION, by="bob")
    meanwhile(app, monkeypatch, ENDS[end])
    answer = act(bob, world, "authenticate", {"token": CODE})
    page = answer.get_data(as_text=True)
    assert answer.status_code == (404 if end == "withdrawn" else 403) and 'id="gate"' not in page
    assert ("You lost access or were signed out while AWS looked at the code." in page) is (end != "withdrawn")


@pytest.mark.parametrize("fragment", [True, False])
@pytest.mark.parametrize("answer_of_aws", ["aws_accepts", "aws_refuses"])
def test_who_was_removed_while_aws_answered_finds_nothing(
    app: Flask, bob: Client, world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    answer_of_aws: str, fragment: bool,
) -> None:  # fmt: skip
    tell(app, S.AWAITING_APPLY_AUTHENTICATION, by="bob")
    request.getfixturevalue(answer_of_aws)
    meanwhile(app, monkeypatch, lambda: members.remove(factories.member("alice"), "bob"))
    answer = act(bob, world, "authenticate", {"token": CODE}, headers=HTMX if fragment else {})
    assert answer.status_code == 404 and "network" not in answer.get_data(as_text=True).replace(answer.request.path, "")
    assert status_of(app) is S.AWAITING_APPLY_AUTHENTICATION


def test_what_a_refused_code_leaves_has_no_code(
    app: Flask, alice: Client, world: World, aws_refuses: None, caplog: pytest.LogCaptureFixture
) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    act(alice, world, "authenticate", {"token": CODE})
    with app.app_context():
        rows = [vars(row) for model in (MfaAttempt, AuditEvent) for row in db.session.scalars(select(model))]
    assert len(rows) >= 2 and CODE not in str(rows) and CODE not in caplog.text


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "abcdef", "１２３４５６", "<script>"])
def test_anything_but_six_digits(app: Flask, alice: Client, world: World, aws_accepts: list[str], typed: str) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    answer = act(alice, world, "authenticate", {"token": typed}, headers=HTMX)
    assert answer.status_code == 422 and aws_accepts == []
    page = answer.get_data(as_text=True)
    assert "Enter the 6 digits shown on your device." in page and "<script>" not in page


def test_the_sixth_refusal_waits(app: Flask, alice: Client, world: World, aws_refuses: None) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    for n in range(5):
        assert act(alice, world, "authenticate", {"token": f"00000{n}"}, headers=HTMX).status_code == 422
    answer = act(alice, world, "authenticate", {"token": CODE}, headers=HTMX)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 429 and 0 < int(answer.headers["Retry-After"]) <= 900
    assert "Too many refused codes." in page and "Try again in 15 min." in page


def test_a_used_code_says_when_the_next_comes(app: Flask, alice: Client, world: World, aws_accepts: list[str]) -> None:
    with app.app_context():
        stories.keys_for("alice")
        here = factories.environment(mfa_level=MfaLevel.APPLIES_ONLY)
        stories.story(here, S.AWAITING_APPLY_AUTHENTICATION)
        stories.story(here, S.AWAITING_APPLY_AUTHENTICATION)
        here.active_run_id = None
        db.session.commit()
    assert act(alice, world, "authenticate", {"token": CODE}).status_code == 303
    path = f"{world.path}/changes/runs/2"
    page = alice.submit(f"{path}/authenticate", {"token": CODE}, headers=HTMX).get_data(as_text=True)
    assert "This code was already sent to AWS." in page and "Next code in " in page
    later = alice.get(path).get_data(as_text=True)
    assert "Next code in " in later or "shows a new code by now" in later
    assert aws_accepts == [CODE]


@pytest.mark.parametrize("fragment", [True, False])
def test_a_code_for_a_run_that_moved_on(app: Flask, alice: Client, world: World, fragment: bool) -> None:
    tell(app, S.APPLYING)
    answer = act(alice, world, "authenticate", {"token": CODE}, headers=HTMX if fragment else {})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 409 and "This run is not waiting for a code" in page
    assert 'id="gate"' in page and "Cancel this apply?" in page


def test_a_locked_environment_sends_nothing(app: Flask, alice: Client, world: World, aws_accepts: list[str]) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        factories.lock("audit")
    assert act(alice, world, "authenticate", {"token": CODE}).status_code == 409
    assert aws_accepts == []


@pytest.mark.parametrize(
    ("what", "before", "after"),
    [
        ("confirm", S.AWAITING_CONFIRMATION, S.APPLY_QUEUED),
        ("discard", S.AWAITING_CONFIRMATION, S.DISCARDED),
        ("cancel", S.PENDING, S.CANCELED),
    ],
)
def test_a_button_as_form_and_as_fragment(
    app: Flask, alice: Client, world: World, what: str, before: S, after: S
) -> None:
    with app.app_context():
        here = factories.environment(mfa_level=MfaLevel.NEVER)
        stories.story(here, before)
        stories.story(here, before)
        here.active_run_id = None
        db.session.commit()
    assert act(alice, world, what).status_code == 303
    page = alice.submit(f"{world.path}/changes/runs/2/{what}", headers=HTMX)
    assert page.status_code == 200 and after.words in page.get_data(as_text=True)
    assert status_of(app) is status_of(app, 2) is after
    assert act(alice, world, what, headers=HTMX).status_code == 409


def test_a_running_apply_is_asked_to_stop(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.APPLYING)
    page = act(bob, world, "cancel", headers=HTMX).get_data(as_text=True)
    assert "Cancel requested by bob" in page and status_of(app) is S.APPLYING
    assert act(alice, world, "cancel").status_code == 409


def test_a_fragment_that_is_not_signed_in_goes_to_the_sign_in_page(app: Flask, anonymous: Client, world: World) -> None:
    tell(app, S.APPLYING)
    answer = anonymous.get(f"{world.path}/changes/runs/1/status", headers=HTMX)
    assert answer.status_code == 401 and "/login" in answer.headers["HX-Redirect"]
