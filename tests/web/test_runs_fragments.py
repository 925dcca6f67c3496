"""What polls bring: only what changed, and each byte of a log exactly once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask

from extensions import db
from models import PhaseStatus, Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import clock
from services.storage import logs
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories

S = RunStatus
HTMX = {"HX-Request": "true"}


def tell(app: Flask, status: S, level: MfaLevel = MfaLevel.APPLIES_ONLY) -> None:
    with app.app_context():
        stories.keys_for("alice")
        stories.story(factories.environment(mfa_level=level), status)


def keys(page: str) -> dict[str, str]:
    """What the page would send with its next poll."""
    poll = page.split('id="poll"')[1].split("</div>")[0]
    return dict(re.findall(r'name="([a-z]+)" value="([^"]*)"', poll))


def first(client: Client, world: World) -> dict[str, str]:
    return keys(client.get(f"{world.path}/changes/runs/1").get_data(as_text=True))


def poll(client: Client, world: World, seen: dict[str, str]) -> tuple[int, str]:
    answer = client.get(f"{world.path}/changes/runs/1/status", query_string=seen, headers=HTMX)
    return answer.status_code, answer.get_data(as_text=True)


def change(app: Flask, **columns: object) -> None:
    with app.app_context():
        run = db.session.get_one(Run, 1)
        for name, value in columns.items():
            setattr(run, name, value)
        db.session.commit()


def log(client: Client, world: World, offset: object, kind: str = "plan") -> tuple[int, str]:
    answer = client.get(f"{world.path}/changes/runs/1/{kind}/log", query_string={"offset": offset}, headers=HTMX)
    return answer.status_code, answer.get_data(as_text=True)


def append(app: Flask, text: bytes) -> None:
    with app.app_context():
        phase = db.session.get_one(Run, 1).plan
        logs.append(phase.id, phase.log_size, text)
        db.session.commit()


@pytest.mark.parametrize("status", [S.PENDING, S.PLANNING, S.AWAITING_APPLY_AUTHENTICATION, S.APPLYING, S.APPLIED])
def test_nothing_new_is_no_content(app: Flask, alice: Client, world: World, status: S) -> None:
    tell(app, status)
    assert poll(alice, world, first(alice, world)) == (204, "")


def test_without_keys_everything_comes(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    status, page = poll(alice, world, {})
    assert status == 200
    for place in ('"innerHTML:#status"', 'id="phases"', 'id="plan-card"', 'id="gate"', '"beforeend:#log-list"'):
        assert place in page


def test_a_gate_that_did_not_change_is_left_alone(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    seen = first(alice, world)
    with app.app_context():
        stories.refused(db.session.get_one(Run, 1).apply, by="bob")
    status, page = poll(alice, world, seen)
    assert status == 200
    assert "Authentication failed" in page and '"innerHTML:#status"' in page
    assert 'id="gate"' not in page and 'id="plan-card"' not in page


def test_a_refusal_of_ones_own_changes_the_gate(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    seen = first(alice, world)
    with app.app_context():
        stories.refused(db.session.get_one(Run, 1).apply)
    assert 'id="gate"' in poll(alice, world, seen)[1]


def test_the_gate_follows_lock_variables_level_and_cancel(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    seen = first(alice, world)
    with app.app_context():
        factories.environment(locked_by_id=factories.person("bob").id, lock_reason="audit")
    page = poll(alice, world, seen)[1]
    assert 'id="gate"' in page and "locked by bob" in page
    assert poll(alice, world, keys(page))[0] == 204
    with app.app_context():
        factories.environment(locked_by_id=None, mfa_level=MfaLevel.PLANS_AND_APPLIES)
    assert 'id="token"' in poll(alice, world, keys(page))[1]


def test_attributes_come_without_touching_the_gate(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        run = db.session.get_one(Run, 1)
        summary, run.summary, run.plan.finished_at = run.summary, None, clock.now()
        db.session.commit()
    seen = first(alice, world)
    change(app, summary=summary)
    page = poll(alice, world, seen)[1]
    assert "aws_network_acl.private" in page and 'id="gate"' not in page


def test_the_minutes_of_the_session_move_alone(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    seen = first(alice, world)
    with app.app_context():
        apply = db.session.get_one(Run, 1).apply
        assert apply.session_expires_at is not None
        apply.session_expires_at -= timedelta(minutes=50)
        db.session.commit()
    page = poll(alice, world, seen)[1]
    assert 'id="session" hx-swap-oob="true"' in page and "this may not finish" in page
    assert 'id="gate"' not in page


def test_a_log_that_begins_is_appended_once(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    seen = first(alice, world)
    assert seen["logs"] == "plan"
    with app.app_context():
        run = db.session.get_one(Run, 1)
        stories.accepted(run.apply, clock.now())
        run.status = S.APPLY_QUEUED
        db.session.commit()
    page = poll(alice, world, seen)[1]
    assert page.count('id="apply-log"') == 1 and 'id="plan-log"' not in page
    assert "Authenticated with MFA by alice" in page
    assert keys(page)["logs"] == "plan apply"
    assert poll(alice, world, keys(page))[0] == 204


def test_the_end_stops_the_polls_and_takes_the_buttons(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLYING)
    seen = first(alice, world)
    change(app, status=S.APPLIED, finished_at=clock.now(), applied_counts=stories.COUNTS)
    page = poll(alice, world, seen)[1]
    assert "hx-get" not in page.split('id="poll"')[1].split(">")[0]
    assert 'id="gate" class="stack" hx-swap-oob="true" hidden' in page and "Applied by alice" in page


def test_show_all_stays_in_force(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        stories.planned(db.session.get_one(Run, 1), 60)
    assert poll(alice, world, {"resources": "all"})[1].count('class="change"') == 60
    assert poll(alice, world, {})[1].count('class="change"') == 50


def ids(html: str) -> list[int]:
    return [int(n) for n in re.findall(r'id="plan-(\d+)"', html)]


def follow(client: Client, world: World, offset: int) -> Iterator[str]:
    """Poll as the page does, to the end of what is there."""
    while True:
        status, html = log(client, world, offset)
        if status == 204:
            return
        yield html
        found = re.search(r'id="plan-tail" hidden hx-get="[^"]*offset=(\d+)"', html)
        if found is None:
            return
        offset = int(found.group(1))


def test_every_line_comes_once_and_in_order_across_chunks(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    lines = ids(page)
    offset = int(re.findall(r"plan/log\?offset=(\d+)", page)[0])
    for n in range(5):
        append(app, b"".join(b"%d-%d %s\n" % (n, k, b"x" * 900) for k in range(120)))
        if n % 2:
            for html in follow(alice, world, offset):
                lines += ids(html)
                found = re.findall(r"offset=(\d+)", html)
                offset = int(found[0]) if found else offset
    for html in follow(alice, world, offset):
        lines += ids(html)
    assert lines == list(range(1, len(lines) + 1)) and len(lines) == 13 + 5 * 120


def test_a_page_that_lags_catches_up_in_quick_steps(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    for _ in range(8):
        append(app, b"y" * 60_000 + b"\n")
    html = log(alice, world, 0)[1]
    assert 'hx-trigger="every 200ms"' in html


def test_a_log_ends_when_the_phase_has_ended_and_all_is_read(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    assert log(alice, world, 10**6)[0] == 200  # beyond the end: an answer with the right offset
    with app.app_context():
        size = db.session.get_one(Run, 1).plan.log_size
    assert log(alice, world, size) == (204, "")
    append(app, b"the last line\n")
    with app.app_context():
        stories.finish(db.session.get_one(Run, 1).plan, clock.now())
    status, html = log(alice, world, size)
    assert status == 200 and "the last line" in html
    assert "hx-get" not in html and "Live" not in html and "14 lines, 9 min" in html


@pytest.mark.parametrize("offset", ["-5", "0", "abc", "", "99999999999999999999", "7"])
def test_a_wrong_offset_harms_nobody(app: Flask, alice: Client, world: World, offset: str) -> None:
    tell(app, S.PLANNING)
    status, html = log(alice, world, offset)
    assert status == 200
    assert "hx-get" in html
    assert ids(html) in ([], list(range(1, 14)))


def test_a_waiting_phase_is_asked_seldom(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        run = db.session.get_one(Run, 1)
        logs.say(run.apply, "The temporary credentials are gone.", "bad")
        assert run.apply.status is PhaseStatus.WAITING
        db.session.commit()
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    assert 'hx-trigger="every 3s"' in page.split('id="apply-tail"')[1].split(">")[0]


def test_the_page_begins_with_the_last_lines_and_their_numbers(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLIED)
    for n in range(30):
        append(app, b"".join(b"%d.%d\n" % (n, k) for k in range(100)))
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    shown = ids(page)
    assert shown[-1] == 3013 and 1000 <= len(shown) <= 1100
    assert f"Lines 1 to {shown[0] - 1:,} are not shown" in page and "Show the whole log" in page
    whole = alice.get(f"{world.path}/changes/runs/1?log=all").get_data(as_text=True)
    assert ids(whole) == list(range(1, 3014)) and "not shown" not in whole


def test_the_raw_log_is_the_log(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    append(app, b"\x1b[31m<b>\xff raw\n")
    answer = alice.get(f"{world.path}/changes/runs/1/plan/log.txt")
    assert answer.data.endswith(b"\x1b[31m<b>\xff raw\n") and answer.data.startswith(b"Configuration v1 unpacked")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Disposition"] == "attachment; filename=network-1-plan.log"


def test_other_kinds_of_logs_are_not_found(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    for path in ("destroy/log", "plan/log.html", "../log"):
        assert alice.get(f"{world.path}/changes/runs/1/{path}").status_code == 404
