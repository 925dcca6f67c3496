"""The page of a run in every status, and what each of its cards says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask

from extensions import db
from models import PhaseStatus
from policy import sts_answers
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import clock, unkept
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories

S = RunStatus


def show(client: Client, world: World, number: int = 1, query: str = "") -> str:
    answer = client.get(f"{world.path}/changes/runs/{number}{query}")
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def tell(app: Flask, status: S, level: MfaLevel = MfaLevel.APPLIES_ONLY, **columns: object) -> None:
    """A run in this status in the environment, whose level is ``level``."""
    with app.app_context():
        stories.keys_for("alice")
        stories.story(factories.environment(mfa_level=level), status, **columns)


def numbered(app: Flask, level: MfaLevel) -> dict[int, S]:
    """A run in each status, by its number."""
    with app.app_context():
        stories.keys_for("alice")
        here = factories.environment(mfa_level=level)
        found = {stories.story(here, status).number: status for status in S}
        factories.environment(active_run_id=None)
        return found


@pytest.mark.parametrize("level", list(MfaLevel))
def test_every_status_has_a_page_with_its_words(app: Flask, alice: Client, world: World, level: MfaLevel) -> None:
    for number, status in numbered(app, level).items():
        page = show(alice, world, number)
        assert status.words in page
        assert 'role="status"' in page
        assert ('hx-trigger="poll"' in page.split('id="poll"')[1]) is not status.final


#: Which forms a run in each status has; without a line it has none.
BUTTONS = {
    S.PENDING: {"cancel"},
    S.AWAITING_PLAN_AUTHENTICATION: {"authenticate", "discard"},
    S.PLAN_QUEUED: {"cancel"},
    S.PLANNING: {"cancel"},
    S.AWAITING_CONFIRMATION: {"confirm", "discard"},
    S.AWAITING_APPLY_AUTHENTICATION: {"authenticate", "discard"},
    S.APPLY_QUEUED: {"cancel"},
    S.APPLYING: {"cancel"},
}


def test_the_buttons_are_those_that_work(app: Flask, alice: Client, world: World) -> None:
    for number, status in numbered(app, MfaLevel.APPLIES_ONLY).items():
        page = show(alice, world, number)
        action = f'action="{world.path}/changes/runs/{number}/'
        shown = {b for b in ("authenticate", "confirm", "discard", "cancel") if f'{action}{b}"' in page}
        assert shown == BUTTONS.get(status, set()), status


def test_the_token_form_takes_a_pasted_code_and_says_what_it_starts(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    page = show(alice, world)
    field = page.split('id="token"')[1].split(">")[0]
    assert 'inputmode="numeric" autocomplete="one-time-code"' in field
    assert 'maxlength="12"' in field and "required" in field
    assert "autofocus" not in field and "value=" not in field
    assert "The apply starts at once when AWS accepts the code" in page
    assert stories.SERIAL in page


def test_the_device_is_that_of_the_person_who_looks(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        stories.keys_for("bob", "arn:aws:iam::123456789012:mfa/bob")
    assert "mfa/bob" in show(bob, world)
    assert "mfa/bob" not in show(alice, world)


def test_a_missing_variable_takes_the_place_of_the_form(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    page = show(bob, world)
    assert "AWS_MFA_SERIAL_NUMBER are not set" in page and "for runs that bob authenticates" in page
    assert 'id="token"' not in page and "Discard" in page


def test_a_run_that_holds_the_environment_takes_the_place_of_the_form(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        stories.keys_for("alice")
        here = factories.environment(mfa_level=MfaLevel.PLANS_AND_APPLIES)
        stories.story(here, S.APPLYING)
        stories.story(here, S.AWAITING_PLAN_AUTHENTICATION)
    page = show(alice, world, 2)
    assert "holds the environment" in page and 'id="token"' not in page


def test_a_manual_lock_takes_the_place_of_the_form(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        factories.lock("<b>audit</b>")
    page = show(alice, world)
    assert "network is locked by bob" in page and "&lt;b&gt;audit&lt;/b&gt;" in page
    assert 'id="token"' not in page


def test_each_refusal_is_a_red_lock_an_alert_and_an_advice(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    for answer in sts_answers.ALL.values():
        with app.app_context():
            stories.refused(db.session.get_one(stories.Run, 1).apply, answer)
        page = show(alice, world)
        assert page.count("Authentication failed") >= 3  # status, timeline, gate
        assert "status-auth-failed" in page and "gate-failed" in page
        alert = page.split('role="alert" id="token-error"')[1].split("</section>")[0]
        assert answer.title in alert and answer.advice in alert and "A new code" in page
        assert 'aria-describedby="token-error token-hint"' in page


def test_two_refused_codes_suspect_the_device(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        run = stories.story(factories.environment(mfa_level=MfaLevel.APPLIES_ONLY), S.AWAITING_APPLY_AUTHENTICATION)
        stories.refused(run.apply)
    assert sts_answers.RESYNC not in show(alice, world)
    with app.app_context():
        stories.refused(db.session.merge(run).apply)
    assert sts_answers.RESYNC in show(alice, world)


def test_a_green_lock_says_who_and_how_long(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    page = show(alice, world)
    assert page.count("Authenticated with MFA by alice") >= 3  # status, gate, log
    assert "57 min left of 60" in page or "58 min left of 60" in page
    assert "Cancel this apply?" in page


def test_a_closed_gate_says_why(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        run = stories.story(factories.environment(mfa_level=MfaLevel.APPLIES_ONLY), S.AWAITING_APPLY_AUTHENTICATION)
        run.apply.gate_note = "The temporary credentials are gone. Nothing was started; enter a new code."
        db.session.commit()
    assert "The temporary credentials are gone." in show(alice, world)


def test_a_cancel_under_way_is_named(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        run.cancel_requested_at, run.cancel_requested_by_id = clock.now(), factories.person("bob").id
        db.session.commit()
    page = show(alice, world)
    assert "Cancel requested by bob" in page and "waiting for terraform to stop cleanly" in page
    assert "Cancel this apply?" not in page


def test_the_plan_shows_counts_attributes_and_digest(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    page = show(alice, world)
    assert "<b>+2</b> to add" in page and "<b>-1</b> to destroy" in page
    assert "~ tier = &#34;a&#34; -> &#34;b&#34;" in page
    assert "(1 unchanged attribute)" in page
    assert stories.DIGEST in page and f"{stories.DIGEST[:12]}</code>" in page


def test_attributes_follow_in_a_moment(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        run.summary, run.plan.finished_at = None, clock.now()
        db.session.commit()
    assert "Attributes follow in a moment" in show(alice, world)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        run.summary = {"unavailable": True}
        db.session.commit()
    assert "could not be read from the plan" in show(alice, world)


def test_fifty_resources_then_all(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        stories.planned(db.session.get_one(stories.Run, 1), 60)
    page = show(alice, world)
    assert page.count('class="change"') == 50 and "Show all 60" in page
    everything = show(alice, world, query="?resources=all")
    assert everything.count('class="change"') == 60 and 'name="resources" value="all"' in everything


def test_an_error_has_its_card_and_offers_a_new_plan(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    with app.app_context():
        stories.errored(db.session.get_one(stories.Run, 1), "The plan is stale: <i>state</i>.", "stale_plan")
    page = show(alice, world)
    assert "What went wrong" in page and "&lt;i&gt;state&lt;/i&gt;" in page
    assert "Queue a new plan" in page and "The plan is no longer good" in page


def test_a_terraform_that_was_killed_promises_nothing(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    with app.app_context():
        stories.errored(db.session.get_one(stories.Run, 1), "Terraform was killed.", "terraform_killed")
    page = show(alice, world)
    assert "Look at AWS before you queue a new plan" in page and "shows what is left to do" not in page


@pytest.mark.parametrize(
    ("status", "own", "how"),
    [
        (S.ERRORED, None, "upload it</a>"),
        (S.ERRORED, "s3", "push it to its backend"),
        (S.CANCELED, None, "upload it</a>"),
    ],
)
def test_a_state_that_is_on_the_machine_only_comes_before_a_new_plan(
    app: Flask, alice: Client, world: World, status: S, own: str | None, how: str
) -> None:
    tell(app, S.APPLYING)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        factories.state(run, serial=7)  # of the first resource
        stories.errored(run, "It stays on the worker’s machine, in /data/work/phase-2-1.", "state_unkept")
        run.status, run.own_backend = status, own
        unkept.hold(run, unkept.Left("It stays on the worker’s machine, in /data/work/phase-2-1.", None, "", ""))
        db.session.commit()
    assert "network is locked until then" in show(alice, world)
    with app.app_context():
        factories.environment(unkept_run_id=None)  # somebody let runs go on
    page = show(alice, world)
    assert "is locked until then" not in page
    assert "It stays on the worker’s machine, in /data/work/phase-2-1." in page
    card = page.split('id="gate-heading"')[1].split("</section>")[0]
    assert "The newest state is on that machine only: save it" in card and how in card
    assert "before you queue a new plan" in card
    assert "is kept" not in card and "shows what is left" not in card and "button-primary" not in card


def test_an_applied_run_tells_who_what_and_which_state(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLIED)
    page = show(alice, world)
    assert "Applied by alice" in page and "2 added, 1 changed" in page and "serial 16" in page


def test_a_pending_run_knows_its_place(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        here = factories.environment()
        stories.story(here, S.APPLYING)
        stories.story(here, S.PENDING)
        stories.story(here, S.PENDING)
    assert "Second in the queue, after #1." in show(alice, world, 3)


def test_what_people_and_terraform_write_is_text(app: Flask, alice: Client, world: World) -> None:
    evil = "<script>alert(1)</script>"
    tell(app, S.AWAITING_APPLY_AUTHENTICATION, message=evil)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        stories.logs.append(run.plan.id, run.plan.log_size, f"{evil}\x1b]8;;javascript:x\x07link\n".encode())
        run.counts = {"add": evil}
        run.summary = stories.summarize(
            {
                "resource_changes": [
                    {"address": evil, "change": {"actions": ["create"], "before": None, "after": {evil: evil}}}
                ]
            }
        ).to_json()
        db.session.commit()
    page = show(alice, world)
    assert evil not in page and "javascript:x" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_a_plan_without_changes_has_nothing_to_apply(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNED_AND_FINISHED)
    page = show(alice, world)
    assert "There is nothing to apply" in page and "Nothing to apply" in page


def test_a_canceled_apply_tells_what_was_kept(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        stories.finish(run.apply, clock.now(), PhaseStatus.CANCELED)
        run.status, run.finished_at, run.ended_by_id = S.CANCELED, clock.now(), factories.person("bob").id
        factories.state(run, serial=7)
    page = show(alice, world)
    assert "Canceled by bob" in page and "serial 7" in page and "Canceled after" in page


def test_a_page_is_quick(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        run = db.session.get_one(stories.Run, 1)
        stories.planned(run, 50)
        stories.plan_log(run, 1000)
    show(alice, world)
    counted: list[str] = []
    with app.app_context():
        db.event.listen(db.engine, "before_cursor_execute", lambda *a: counted.append(a[2]))
    start = clock.now()
    show(alice, world)
    assert len(counted) <= 16
    assert clock.now() - start < timedelta(seconds=1)
