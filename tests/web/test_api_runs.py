"""Runs for scripts: who may queue and read by a token, what is answered, and that nothing else can be done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent, Run, TokenScope
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import queue
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories
from tests.web.test_api_states import ENDS, Terminal, slowly

PATH = "/api/v1/runs/acme/network"


@pytest.fixture
def al(app: Flask, world: World) -> Terminal:
    """Alice's script, in an environment with a configuration."""
    with app.app_context():
        factories.configuration(factories.environment())
    return Terminal(app, "alice")


def runs_of(app: Flask) -> list[tuple[int, RunStatus, str, str]]:
    with app.app_context():
        query = select(Run).order_by(Run.number)
        return [(run.number, run.status, run.message, run.created_by.name) for run in db.session.scalars(query)]


def refused(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status
    assert answer.content_type == "application/json"
    sentence = json.loads(answer.text)["error"]
    assert all(word in sentence for word in words), sentence


def test_a_plan_of_the_newest_configuration_is_queued(app: Flask, al: Terminal, alice: Client, world: World) -> None:
    with app.app_context():
        factories.configuration(factories.environment())
    answer = al.send("POST", path=PATH, data=None)
    assert answer.status_code == 201
    told = json.loads(answer.text)
    assert (told["number"], told["status"], told["queued_by"], told["configuration"]) == (1, "plan_queued", "alice", 2)
    assert (told["level"], told["waits_for"], told["final"]) == ("never", "a worker", False)
    assert answer.headers["Location"] == f"http://localhost{PATH}/1"
    assert told["url"] == f"http://localhost{world.path}/changes/runs/1"
    assert alice.get(told["url"]).status_code == 200
    assert json.loads(al.send("GET", path=f"{PATH}/1").text) == told
    with app.app_context():
        assert len(queue.queue().get_jobs()) == 1
        made = db.session.scalars(select(AuditEvent).filter_by(action="run.create")).one()
        assert (made.actor_name, made.details["token"]) == ("alice", "laptop")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"message": " Add  a subnet "}', "application/json"),
        (b"message=Add+a+subnet", "application/x-www-form-urlencoded"),
        (b'{"message": "Add a subnet"}', ""),
    ],
)
def test_a_message_comes_as_a_form_or_as_json(app: Flask, al: Terminal, body: bytes, kind: str) -> None:
    assert al.send("POST", body, PATH, content_type=kind).status_code == 201
    assert runs_of(app) == [(1, RunStatus.PLAN_QUEUED, "Add a subnet", "alice")]


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"nonsense", b"[" * 5000, b"\xff", b'{"message": 5}', b'{"message": ["a"]}', b'{"message": "a\\u0000"}',
        b'{"message": "\\ud800"}', b'{"message": "%s"}' % (b"x" * 201), b'{"destroy": true}', b'{"level": "never"}',
        b'{"message": "a", "confirm": true}', b'{"token": "123456"}',
    ],
)  # fmt: skip
def test_whatever_else_is_sent_queues_nothing(app: Flask, al: Terminal, body: bytes) -> None:
    refused(al.send("POST", body, PATH, content_type="application/json"), 422)
    assert runs_of(app) == []


def test_a_body_that_is_too_large_is_not_read(app: Flask, al: Terminal) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        refused(al.send("POST", b"message=" + b"x" * 20000, PATH, content_type=kind), 413)
    assert runs_of(app) == []


def test_without_a_configuration_nothing_is_queued(app: Flask, world: World) -> None:
    refused(Terminal(app, "alice").send("POST", path=PATH), 409, "no configuration", "No plan was queued")


def test_a_manual_lock_makes_it_wait_as_on_the_page(app: Flask, al: Terminal) -> None:
    with app.app_context():
        factories.lock("Freeze")
    told = json.loads(al.send("POST", path=PATH).text)
    assert (told["status"], told["waits_for"]) == ("pending", "bob, who locked it by hand: Freeze")
    with app.app_context():
        assert queue.queue().get_jobs() == []


def test_one_that_is_queued_waits_for_a_manual_lock_too(app: Flask, al: Terminal) -> None:
    told = json.loads(al.send("POST", path=PATH).text)
    assert (told["status"], told["waits_for"]) == ("plan_queued", "a worker")
    with app.app_context():
        factories.lock("Freeze")
    told = json.loads(al.send("GET", path=f"{PATH}/1").text)
    assert (told["status"], told["waits_for"]) == ("plan_queued", "bob, who locked it by hand: Freeze")


def test_a_second_one_waits_for_the_first(al: Terminal) -> None:
    al.send("POST", path=PATH)
    told = json.loads(al.send("POST", path=PATH).text)
    assert (told["number"], told["status"], told["waits_for"]) == (2, "pending", "run #1 by alice (plan)")


def test_under_plans_and_applies_it_waits_for_a_code(app: Flask, al: Terminal) -> None:
    with app.app_context():
        factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES)
    told = json.loads(al.send("POST", path=PATH).text)
    assert (told["status"], told["level"]) == ("awaiting_plan_authentication", "plans and applies")
    assert told["waits_for"] == "a code for the plan, from a person"
    with app.app_context():
        assert queue.queue().get_jobs() == []


def test_a_token_for_reading_reads(app: Flask, al: Terminal) -> None:
    reader = Terminal(app, "alice", TokenScope.READ)
    refused(reader.send("POST", path=PATH), 403, "reading only")
    assert runs_of(app) == []
    al.send("POST", path=PATH)
    assert json.loads(reader.send("GET", path=f"{PATH}/1").text)["number"] == 1


def test_without_the_right_token_nobody_comes_in(app: Flask, al: Terminal, alice: Client) -> None:
    for auth in (None, ("alice", "lsp_wrong"), ("bob", al.text), ("alice", factories.PASSWORD)):
        answer = al.send("POST", path=PATH, auth=auth)
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert alice.post(PATH).status_code == 401, "no cookie counts here"
    assert runs_of(app) == []


@pytest.mark.parametrize(
    ("body", "kind"), [(b'{"message": "a"}', "application/json"), (b"message=a", "application/x-www-form-urlencoded")]
)
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_while_the_body_comes_lets_nothing_in(
    app: Flask, al: Terminal, end: str, body: bytes, kind: str
) -> None:
    bo = Terminal(app, "bob")
    refused(slowly(bo, "POST", body, PATH, ENDS[end], content_type=kind), ENDS[end].runs)
    assert runs_of(app) == []


def test_what_is_not_there_and_what_is_anothers_look_the_same(app: Flask, al: Terminal) -> None:
    al.send("POST", path=PATH)
    carol = Terminal(app, "carol")
    for path, method in ((PATH, "POST"), (f"{PATH}/1", "GET")):
        theirs, missing = carol.send(method, path=path), carol.send(method, path=path.replace("acme", "nothing"))
        assert (theirs.status_code, theirs.text) == (missing.status_code, missing.text)
        refused(theirs, 404)
    refused(al.send("GET", path=f"{PATH}/2"), 404)


def test_a_run_that_has_ended_tells_its_counts_and_times_and_no_secret(app: Flask, al: Terminal) -> None:
    with app.app_context():
        run = stories.story(factories.environment(), RunStatus.APPLIED)
        run.plan.mfa_serial = run.apply.mfa_serial = "arn:aws:iam::1:mfa/alice"
        run.plan_digest = "ab" * 32
        db.session.commit()
        number = run.number
    text = al.send("GET", path=f"{PATH}/{number}").text
    told = json.loads(text)
    assert (told["status"], told["final"], told["waits_for"]) == ("applied", True, None)
    assert told["plan_sha256"] == "ab" * 32
    assert told["changes_planned"]["add"] >= 0
    assert told["apply"]["status"] == "finished" and told["finished_at"].endswith("Z")
    assert "arn:aws" not in text and al.text not in text


def test_no_token_confirms_authenticates_or_sets_a_level(app: Flask, al: Terminal, world: World) -> None:
    """There is no such route, and those of the pages take no token."""
    below = sorted(
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        if rule.endpoint != "api_states.nowhere"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    )
    states, runs = (f"/api/v1/{name}/<organization>/<environment>" for name in ("states", "runs"))
    of_runs = [("POST", runs), ("GET", f"{runs}/<int:number>")]
    assert below == sorted([*((method, states) for method in ("GET", "POST", "LOCK", "UNLOCK")), *of_runs])
    with app.app_context():
        factories.environment(mfa_level=MfaLevel.APPLIES_ONLY)
        run = factories.run(factories.environment(), RunStatus.AWAITING_APPLY_AUTHENTICATION)
        number = run.number
    page = f"{world.path}/changes/runs/{number}"
    for path, form in (
        (f"{page}/authenticate", {"token": "123456"}),
        (f"{page}/confirm", {}),
        (f"{page}/cancel", {}),
        (f"{world.path}/settings", {"mfa_level": "never", "session_minutes": "60"}),
    ):
        answer = al.send("POST", path=path, data=form)
        assert (answer.status_code, answer.location.partition("?")[0]) == (302, "/login"), "nobody is signed in"
    for action in ("confirm", "authenticate", "cancel", "discard"):
        assert al.send("POST", path=f"{PATH}/{number}/{action}").status_code == 404
        assert al.send("POST", path=f"{PATH}/{number}", data={"action": action}).status_code == 405
    with app.app_context():
        found = db.session.get_one(Run, 1)
        assert found.status is RunStatus.AWAITING_APPLY_AUTHENTICATION
        assert found.environment.mfa_level is MfaLevel.APPLIES_ONLY
