"""The hard ends of a run on its page: force, giving up on a worker, limits, and what is known of an interrupted one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from extensions import db
from models import Run
from policy.lifecycle import CancelReason
from policy.lifecycle import RunStatus as S
from services import clock, environments, queue
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories
from tests.web.test_run_facts import first, poll, show, tell

RUN = "/terraform/acme/environments/network/changes/runs/1"


def change(app: Flask, **values: Any) -> None:
    with app.app_context():
        run = db.session.get_one(Run, 1)
        for name, value in values.items():
            setattr(run, name, value)
        db.session.commit()


def beat(app: Flask, ago: timedelta | None, worker: str = "web1-3f9a1c:42") -> None:
    with app.app_context():
        apply = db.session.get_one(Run, 1).apply
        apply.heartbeat_at, apply.worker = None if ago is None else clock.now() - ago, worker
        db.session.commit()


def asked(app: Flask, ago: timedelta, **more: Any) -> None:
    with app.app_context():
        alice = factories.person("alice").id
    change(app, cancel_requested_at=clock.now() - ago, cancel_requested_by_id=alice, **more)


def test_a_cancel_can_be_forced_after_its_cool_off(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.APPLYING)
    asked(app, timedelta(seconds=30))
    page = show(alice, world)
    assert "waiting for terraform to stop cleanly" in page
    assert "If it does not stop, an admin can force it to end after 2 min." in page and "force-form" not in page
    seen = first(alice, world)
    asked(app, timedelta(seconds=130))
    assert 'id="force-form"' in poll(alice, world, seen)[1]
    assert "force-form" not in show(bob, world)
    assert bob.submit(f"{RUN}/force").status_code == 403
    answer = alice.submit(f"{RUN}/force")
    assert answer.status_code == 303
    page = show(alice, world)
    assert "Forced by alice at" in page and "force-form" not in page
    assert alice.submit(f"{RUN}/force").status_code == 409


def test_before_the_cool_off_nothing_is_forced(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    asked(app, timedelta(seconds=30))
    answer = alice.submit(f"{RUN}/force")
    assert answer.status_code == 409 and "give it time. Nothing was changed." in answer.text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (CancelReason.TIME_LIMIT, "The apply reached its time limit at"),
        (CancelReason.SESSION_OVER, "The MFA session was about to end at"),
    ],
)
def test_a_limit_says_why_it_stops(app: Flask, alice: Client, world: World, reason: CancelReason, words: str) -> None:
    tell(app, S.APPLYING)
    change(app, cancel_requested_at=clock.now(), cancel_reason=reason)
    page = show(alice, world)
    assert words in page and "Cancel requested" in page
    change(app, status=S.CANCELED, finished_at=clock.now(), error="It took longer than 12 h.", error_code="time_limit")
    page = show(alice, world)
    assert "Canceled by Lockstep" in page and "It took longer than 12 h." in page


def test_an_owner_gives_up_on_a_silent_worker(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.APPLYING)
    beat(app, timedelta(seconds=5))
    assert "give-up-form" not in show(alice, world)
    assert alice.submit(f"{RUN}/give-up").status_code == 409
    beat(app, timedelta(minutes=5))
    assert "No sign of the worker on web1-3f9a1c since <time" in show(bob, world)
    assert "give-up-form" not in show(bob, world)
    assert 'id="give-up-form"' in show(alice, world)
    assert alice.submit(f"{RUN}/give-up").status_code == 303
    page = show(alice, world)
    assert "status-interrupted" in page and "alice gave up on the worker" in page
    assert "Make sure that the machine web1-3f9a1c is off." in page
    assert "Queue a new plan" in page


def test_a_worker_that_was_stopped_is_reconnected(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    beat(app, timedelta(seconds=1))
    seen = first(alice, world)
    beat(app, None)
    page = poll(alice, world, seen)[1]
    assert "Reconnecting: the worker on web1-3f9a1c was stopped" in page and "give-up-form" not in page
    assert alice.submit(f"{RUN}/give-up").status_code == 409
    seen = first(alice, world)
    beat(app, timedelta(seconds=90))
    page = poll(alice, world, seen)[1]
    assert "No sign of the worker" in page and "give-up-form" not in page
    seen = first(alice, world)
    beat(app, timedelta(seconds=130))
    assert 'id="give-up-form"' in poll(alice, world, seen)[1]


KNOWN: dict[str, Any] = {
    "step": "apply", "worker": "web1:1", "last_sign": "2026-03-11T16:04:05+00:00", "last_output": None,
    "rebooted": False, "serial": 14, "unkept": "", "errored_state": False,
    "lock": {"Operation": "OperationTypeApply", "Who": "lockstep@web1", "Created": "2026-03-11"},
    "own_backend": False, "begun": True, "done": 2, "failed": [],
    "unsure": ["module.flow_logs.aws_flow_log.this", "aws_instance.<script>"], "given_up_by": None,
}  # fmt: skip


def interrupted(app: Flask, **known: Any) -> None:
    tell(app, S.APPLYING)
    facts = KNOWN | known
    change(app, status=S.INTERRUPTED, finished_at=clock.now(), error="Terraform vanished.", interruption=facts)
    with app.app_context():
        run = db.session.get_one(Run, 1)
        stories.finish(run.apply, clock.now())
        run.apply.status = stories.PhaseStatus.FAILED
        db.session.commit()


def test_an_interrupted_apply_says_what_is_known_and_what_to_do(app: Flask, alice: Client, world: World) -> None:
    interrupted(app)
    page = show(alice, world)
    for part in (
        "Terraform vanished.", "Look at the unfinished resources below", "module.flow_logs.aws_flow_log.this",
        "aws_instance.&lt;script&gt;", "Saved up to serial 14; terraform’s lock is released",
        "2 resources, 2 not known",
        "Interrupted after", "Queue a new plan", "import it first",
    ):  # fmt: skip
        assert part in page, part
    assert "force-unlock" not in page
    assert "button-primary" in page.split('id="outcome"')[1].split("</section>")[0]


def test_an_interrupted_apply_with_a_backend_of_its_own(app: Flask, alice: Client, world: World) -> None:
    interrupted(app, own_backend=True, serial=None, unkept="It stays in /data/work/phase-1-2.")
    page = show(alice, world)
    assert "force-unlock" in page and "It stays in /data/work/phase-1-2. Save it from there" in page
    assert "button-primary" not in page.split('id="outcome"')[1].split("</section>")[0], "a new plan comes later"


def test_an_interrupted_plan_has_nothing_to_put_right(app: Flask, alice: Client, world: World) -> None:
    interrupted(app, begun=False, unsure=[])
    assert "Nothing was applied, so nothing has to be put right." in show(alice, world)


def test_a_queued_run_says_why_no_worker_takes_it(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLY_QUEUED)
    assert "No worker is running." in show(alice, world)
    with app.app_context():
        queue.sign("web1-3f9a1c:1", busy=True)
    assert "The only worker is busy with another run." in show(alice, world)
    with app.app_context():
        queue.sign("web1-3f9a1c:2", busy=True)
    assert "All 2 workers are busy with other runs." in show(alice, world)
    with app.app_context():
        queue.sign("web1-3f9a1c:2", busy=False)
    assert "The apply starts as soon as a worker is free." in show(alice, world)
    with app.app_context():
        queue.connection().flushall()
        run = db.session.get_one(Run, 1)
        run.apply.queued_at = clock.now()
        db.session.commit()
    assert "The apply starts as soon as a worker is free." in show(alice, world), "it was queued just now"


def test_a_queued_run_says_that_somebody_locked_by_hand(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLY_QUEUED)
    seen = first(alice, world)
    words = "network is locked by bob: incident, hands off. The apply starts when it is unlocked."
    with app.app_context():
        environments.lock(factories.member("bob"), factories.environment(), "incident, hands off")
    assert words in (news := poll(alice, world, seen)[1]) and "Waiting for the unlocking" in news
    page = show(alice, world)
    assert words in page and "Waiting for the unlocking" in page
    assert "No worker is running." not in page and "Waiting for a worker" not in page
    seen = first(alice, world)
    with app.app_context():
        here = factories.environment()
        environments.unlock(factories.member("bob"), here, str(here.lock_mark))
    page = poll(alice, world, seen)[1]
    assert "No worker is running." in page and "Waiting for a worker" in page and "is locked by" not in page


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (S.PENDING, "The plan is queued when it is free."),
        (S.AWAITING_PLAN_AUTHENTICATION, "A code can be entered when it is free."),
    ],
)
def test_a_terminal_that_holds_the_state_is_named(
    app: Flask, alice: Client, world: World, status: S, words: str
) -> None:
    tell(app, status)
    seen = first(alice, world)
    with app.app_context():
        environment = db.session.get_one(Run, 1).environment
        environment.state_lock_id, environment.state_lock_at = "an-id", clock.now()
        environment.state_lock_by_id = factories.person("bob").id
        environment.state_lock_info = {"Operation": "OperationTypeApply", "Who": "bob@laptop"}
        db.session.commit()
    page = poll(alice, world, seen)[1]
    assert "is held by a terminal of bob (apply, on bob@laptop)" in page and words in page
    assert 'id="token-form"' not in page and 'id="confirm-form"' not in page
    assert "A terminal of bob holds the state" in alice.get(RUN.rpartition("/")[0]).text
    assert "Held by a terminal of bob" in alice.get("/terraform/acme").text
