"""What the page of a run says about who acted, with which keys, and whether its worker is still there."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask

from extensions import db
from models import Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import clock
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories
from tests.web.test_runs_fragments import first, poll
from tests.web.test_runs_pages import show, tell

S = RunStatus
CALLER = "arn:aws:iam::123456789012:user/alice"


def timeline(page: str) -> str:
    return page.split('id="phases"')[1].split("</ol>")[0]


def test_a_gate_that_closed_after_the_confirmation_is_in_the_timeline(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        db.session.get_one(Run, 1).confirmed_by_id = factories.person("bob").id
        db.session.commit()
    steps = timeline(show(alice, world))
    assert steps.index("By bob") < steps.index("Awaiting a code") and 'href="#authenticate"' in steps
    current = steps.split('aria-current="step"')[1].split("</li>")[0]
    assert "Authenticate" in current
    with app.app_context():
        run = db.session.get_one(Run, 1)
        stories.accepted(run.apply, clock.now())
        run.status = S.APPLY_QUEUED
        db.session.commit()
    steps = timeline(show(alice, world))
    assert steps.index("By bob") < steps.index("By alice at")


def test_a_confirmed_run_has_no_gate_in_its_timeline(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLIED, MfaLevel.NEVER)
    steps = timeline(show(alice, world))
    assert "Confirm" in steps and "Authenticate" not in steps


def test_a_second_click_on_a_new_plan_queues_none(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    with app.app_context():
        stories.errored(db.session.get_one(Run, 1), "Terraform failed.")
    form = show(alice, world).split("Queue a new plan")[0].rpartition("<form")[2]
    assert 'name="seen" value="1"' in form
    places = [alice.submit(f"{world.path}/changes/runs", {"seen": "1"}).headers["Location"] for _ in range(2)]
    assert places == [f"{world.path}/changes/runs/2"] * 2


def test_the_gate_says_whose_code_it_asks_for(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        stories.keys_for("bob", "arn:aws:iam::123456789012:mfa/bobs-phone")
    for client, name, device in ((alice, "alice", stories.SERIAL), (bob, "bob", "mfa/bobs-phone")):
        side = show(client, world).split('class="gate-side')[1].split("</dl>")[0]
        assert "Authenticates as" in side and f"<strong>{name}</strong>" in side and device in side


def test_the_facts_tell_who_aws_says_the_caller_is(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING, MfaLevel.PLANS_AND_APPLIES)
    seen = first(alice, world)
    assert "AWS knows" not in show(alice, world)
    with app.app_context():
        run = db.session.get_one(Run, 1)
        run.plan.caller_arn, run.apply.caller_arn = f"{CALLER}-of-plan", f"{CALLER}-of-apply"
        db.session.commit()
    facts = show(alice, world).split('id="facts"')[1].split("</dl>")[0]
    assert facts.count("AWS knows these credentials as") == 2
    assert f"<code>{CALLER}-of-plan</code>" in facts and f"<code>{CALLER}-of-apply</code>" in facts
    assert f"{CALLER}-of-apply" in poll(alice, world, seen)[1]


@pytest.mark.parametrize(("status", "kind"), [(S.PLANNING, "plan"), (S.APPLYING, "apply")])
def test_a_lost_worker_is_said_and_taken_back(
    app: Flask, alice: Client, world: World, status: RunStatus, kind: str
) -> None:
    tell(app, status)

    def beat(seconds: int) -> None:
        with app.app_context():
            getattr(db.session.get_one(Run, 1), kind).heartbeat_at = clock.now() - timedelta(seconds=seconds)
            db.session.commit()

    beat(5)
    page = show(alice, world)
    assert "No sign of the worker" not in page and page.count(">Live<") == 1
    seen = first(alice, world)
    beat(45)
    lost = poll(alice, world, seen)[1]
    assert ">Not followed<" in lost and ">Live<" not in lost + show(alice, world)
    assert 'id="worker"' in lost and "No sign of the worker on its machine since <time" in lost
    assert "No worker of that machine is running; one that starts takes over. Terraform goes on by itself." in lost
    assert "No sign of the worker" in show(alice, world)
    seen = first(alice, world)
    assert poll(alice, world, seen) == (204, "")
    beat(1)
    found = poll(alice, world, seen)[1]
    assert '<div id="worker" hidden hx-swap-oob="true"></div>' in found


def test_an_ended_run_has_no_lost_worker(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLIED)
    with app.app_context():
        db.session.get_one(Run, 1).apply.heartbeat_at = clock.now() - timedelta(hours=1)
        db.session.commit()
    assert "No sign of the worker" not in show(alice, world)
