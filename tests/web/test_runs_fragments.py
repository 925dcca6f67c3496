"""What polls bring: only what changed, and each byte of a log exactly once."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from blueprints import log_lines
from extensions import db
from models import Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import clock, sign_ins
from services.storage import logs
from services.storage.ansi import Rendered, render_lines
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
    return dict(re.findall(r'name="([a-z_]+)" value="([^"]*)"', poll))


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


def stale(seen: dict[str, str]) -> dict[str, str]:
    """The same page, made so long ago that every part is looked at again."""
    return {**seen, "stamp": seen["stamp"].partition(".")[0] + ".1"}


def gap(client: Client, world: World, kind: str = "plan", **query: object) -> tuple[int, str]:
    answer = client.get(f"{world.path}/changes/runs/1/{kind}/log", query_string=query, headers=HTMX)
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


def test_the_timeline_names_the_last_refusal(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    with app.app_context():
        stories.refused(db.session.get_one(Run, 1).apply)
    seen = first(alice, world)
    with app.app_context():
        later = stories.refused(db.session.get_one(Run, 1).apply)
        later.at += timedelta(minutes=2)
        words = f"{later.at:%H:%M:%S} UTC"
        db.session.commit()
    page = poll(alice, world, seen)[1]
    assert words in page.split('class="phases"')[1].split("</ol>")[0]


def test_the_gate_follows_lock_variables_level_and_cancel(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    seen = first(alice, world)
    with app.app_context():
        factories.lock("audit")
    page = poll(alice, world, seen)[1]
    assert 'id="gate"' in page and "locked by bob" in page
    assert poll(alice, world, keys(page))[0] == 204
    with app.app_context():
        factories.environment(locked_by_id=None, locked_at=None, mfa_level=MfaLevel.PLANS_AND_APPLIES)
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
    assert 'id="session" hx-swap-oob="true"' in page and "The MFA session ends soon." in page
    assert 'id="gate"' not in page


def test_a_log_that_begins_is_appended_once(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    seen = first(alice, world)
    assert "plan_at" in seen and "apply_at" not in seen
    with app.app_context():
        run = db.session.get_one(Run, 1)
        stories.accepted(run.apply, clock.now())
        run.status = S.APPLY_QUEUED
        db.session.commit()
    page = poll(alice, world, seen)[1]
    assert page.count('id="apply-log"') == 1 and 'id="plan-log"' not in page
    assert "Authenticated with MFA by alice" in page
    assert {"plan_at", "apply_at"} <= set(keys(page))
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


def at(html: str) -> str:
    return re.findall(r'name="plan_at" value="(\d+)"', html)[0]


@pytest.mark.parametrize("look", [lambda seen: seen, stale], ids=["quick", "whole"])
def test_every_line_comes_once_and_in_order_across_chunks(
    app: Flask, alice: Client, world: World, look: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    tell(app, S.PLANNING)
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    lines, seen = ids(page), keys(page)
    for n in range(5):
        append(app, b"".join(b"%d-%d %s\n" % (n, k, b"x" * 300) for k in range(120)))
        if n % 2 == 0:
            status, html = poll(alice, world, look(seen))
            assert status == 200
            lines += ids(html)
            seen["plan_at"] = at(html)
    assert poll(alice, world, seen) == (204, "")
    assert lines == list(range(1, len(lines) + 1)) and len(lines) == 13 + 5 * 120


def test_a_poll_for_lines_alone_brings_nothing_else(app: Flask, alice: Client, bob: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    append(app, b"a new line\n")
    status, html = poll(alice, world, seen)
    assert status == 200 and "a new line" in html and ">14 lines<" in html
    assert 'id="poll"' not in html and 'id="gate"' not in html
    assert poll(bob, world, {**first(bob, world), "plan_at": seen["plan_at"]})[1] == html  # nothing of a person in it
    assert poll(alice, world, stale({**seen, "plan_at": at(html)}))[1].count('id="poll"') == 1


def test_a_poll_costs_two_queries_and_a_read(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    counted: list[str] = []

    def count(*event: object) -> None:
        if not str(event[2]).startswith("BEGIN"):
            counted.append(str(event[2]))

    with app.app_context():
        db.event.listen(db.engine, "before_cursor_execute", count)
    try:
        assert poll(alice, world, seen)[0] == 204
        assert len(counted) == 2
        append(app, b"a new line\n")
        counted.clear()
        assert poll(alice, world, seen)[0] == 200
        assert len(counted) == 3
        counted.clear()
        assert poll(alice, world, seen)[0] == 200  # the same lines for somebody else, a moment later
        assert len(counted) == 2
    finally:
        with app.app_context():
            db.event.remove(db.engine, "before_cursor_execute", count)


def test_a_stranger_and_an_ended_session_get_nothing_by_a_quick_poll(
    app: Flask, alice: Client, carol: Client, anonymous: Client, world: World
) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    append(app, b"only for members\n")
    assert poll(carol, world, seen)[0] == 404
    assert poll(anonymous, world, seen)[0] == 401
    with app.app_context():
        factories.person("alice").session_epoch += 1
        db.session.commit()
    status, html = poll(alice, world, seen)
    assert status == 401 and "only for members" not in html


def test_a_revoked_session_gets_nothing_by_a_quick_poll(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    append(app, b"only for members\n")
    assert poll(alice, world, seen)[0] == 200
    with app.app_context():
        one = sign_ins.of(factories.person("alice"))[0]
        sign_ins.end(one.user, one.id)
    status, html = poll(alice, world, seen)
    assert status == 401 and "only for members" not in html


def test_a_page_that_was_away_for_long_gets_the_end_and_a_gap(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    for n in range(60):
        append(app, b"".join(b"%d.%d\n" % (n, k) for k in range(100)))
    html = poll(alice, world, seen)[1]
    assert ids(html) == list(range(6013 - 1999, 6014))
    assert 'id="plan-gap-14"' in html and "Lines 14 to 4,013 are not shown" in html
    status, html = gap(alice, world, first=14, last=4013)
    assert status == 200 and ids(html) == list(range(2014, 4014)) and "Lines 14 to 2,013 are not shown" in html
    html = gap(alice, world, first=14, last=2013, **{"from": "above"})[1]
    assert ids(html) == list(range(14, 2014)) and "not shown" not in html


def test_only_lines_that_are_shown_are_rendered(
    app: Flask, alice: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll reads megabytes, and they can be a million line breaks."""
    rendered: list[int] = []

    def counted(*args: Any, **options: Any) -> Rendered:
        found = render_lines(*args, **options)
        rendered.append(len(found.lines))
        return found

    tell(app, S.PLANNING)
    seen = first(alice, world)
    monkeypatch.setattr(log_lines, "render_lines", counted)
    for _ in range(4):
        append(app, b"\n" * 65_536)
    html = poll(alice, world, seen)[1]
    assert ids(html) == list(range(13 + 262_144 - 1999, 13 + 262_144 + 1))
    assert "Lines 14 to 260,157 are not shown" in html
    assert sum(rendered) == 2000


def test_a_log_ends_when_the_phase_has_ended_and_all_is_read(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    assert poll(alice, world, {**seen, "plan_at": "1000000"})[1].count(f'value="{seen["plan_at"]}"') == 1
    append(app, b"the last line\n")
    with app.app_context():
        run = db.session.get_one(Run, 1)
        stories.finish(run.plan, clock.now())
        run.status, run.finished_at = S.PLANNED_AND_FINISHED, clock.now()
        db.session.commit()
    status, html = poll(alice, world, seen)
    assert status == 200 and "the last line" in html
    assert "hx-get" not in html and "Live" not in html
    assert "14 lines</span>, 9 min" in html


@pytest.mark.parametrize("offset", ["-5", "0", "abc", "", "99999999999999999999", "7"])
def test_a_wrong_offset_harms_nobody(app: Flask, alice: Client, world: World, offset: str) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    status, html = poll(alice, world, {**seen, "plan_at": offset})
    assert status == 200
    assert at(html) == seen["plan_at"]
    assert ids(html) in ([], list(range(1, 14)), list(range(2, 14)))


@pytest.mark.parametrize("query", [{}, {"first": 5, "last": 2}, {"first": "x"}, {"first": -3, "last": 0}])
def test_a_gap_that_is_none_is_no_content(app: Flask, alice: Client, world: World, query: dict[str, Any]) -> None:
    tell(app, S.PLANNING)
    assert gap(alice, world, **query) == (204, "")


def test_a_waiting_run_is_asked_seldom(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.AWAITING_APPLY_AUTHENTICATION)
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    assert 'data-every="3s"' in page.split('id="poll"')[1].split(">")[0]


def test_the_page_begins_with_the_last_lines_and_brings_those_before(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    for n in range(30):
        append(app, b"".join(b"%d.%d\n" % (n, k) for k in range(100)))
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    assert ids(page) == list(range(1014, 3014)) and "Lines 1 to 1,013 are not shown" in page
    html = gap(alice, world, first=1, last=1013)[1]
    assert ids(html) == list(range(1, 1014)) and "log-gap" not in html
    none = gap(alice, world, first=1, last=1013, count=0)[1]
    assert ids(none) == [] and "Lines 1 to 1,013 are not shown" in none


def test_a_line_has_an_address_wherever_it_is(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLIED)
    for n in range(60):
        append(app, b"".join(b"%d.%d\n" % (n, k) for k in range(100)))
    page = alice.get(f"{world.path}/changes/runs/1?line=plan-2500").get_data(as_text=True)
    lines = ids(page)
    assert 2500 in lines and 6013 in lines and len(lines) < 2000 and lines == sorted(set(lines))
    assert '<details class="log" id="plan-log" open>' in page
    assert "Lines 1 to 2,199 are not shown" in page and "Lines 3,000 to 5,513 are not shown" in page
    for odd in ("plan-6013", "plan-99999", "apply-1", "plan-0", "x", "plan-1"):
        page = alice.get(f"{world.path}/changes/runs/1?line={odd}").get_data(as_text=True)
        assert ids(page)[-1] == 6013
    assert ids(page)[0] == 1  # plan-1


def test_lines_of_a_megabyte_make_a_small_page_and_a_whole_download(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    for n in range(12):
        append(app, b"%d<" % n + b"x" * 1_000_000 + b"\xff\0>\n")
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    assert len(page) < 150_000
    assert "characters not shown; the raw log has the whole line" in page and "\ufffd\u2400&gt;" in page
    status, html = poll(alice, world, seen)
    assert status == 200 and len(html) < 50_000 and "not shown" in html
    raw = alice.get(f"{world.path}/changes/runs/1/plan/log.txt").data
    assert raw.endswith(b"11<" + b"x" * 1_000_000 + b"\xff\0>\n") and raw.count(b"\xff\0>") == 12


def test_a_line_that_does_not_end_is_one_line(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.PLANNING)
    seen = first(alice, world)
    append(app, b"a" * 5000)
    html = poll(alice, world, seen)[1]
    assert ids(html) == [14]
    append(app, b"b" * 5000)
    append(app, b"c\nnext\n")
    assert ids(poll(alice, world, {**seen, "plan_at": at(html)})[1]) == [15]
    page = alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)
    assert ids(page) == list(range(1, 16)) and "6,501 characters not shown" in page
    append(app, b"open")
    with app.app_context():
        logs.say(db.session.get_one(Run, 1).plan.id, "Said by Lockstep")
        db.session.commit()
    assert ids(alice.get(f"{world.path}/changes/runs/1").get_data(as_text=True)) == list(range(1, 18))
    raw = alice.get(f"{world.path}/changes/runs/1/plan/log.txt").data
    assert raw.endswith(b"\n" + b"a" * 5000 + b"b" * 5000 + b"c\nnext\nopen\nSaid by Lockstep\n")


def test_a_removed_log_says_so(app: Flask, alice: Client, world: World) -> None:
    tell(app, S.APPLIED)
    with app.app_context():
        run = db.session.get_one(Run, 1)
        run.plan.log_removed_at = clock.now()
        db.session.commit()
    page = alice.get(f"{world.path}/changes/runs/1?line=plan-3").get_data(as_text=True)
    assert "This log was removed on" in page and ids(page) == []
    answer = alice.get(f"{world.path}/changes/runs/1/plan/log.txt")
    assert answer.status_code == 410 and "The log was removed on" in answer.get_data(as_text=True)
    assert gap(alice, world, first=1, last=5)[0] == 204


def test_a_finished_download_need_not_come_twice(app: Flask, alice: Client, carol: Client, world: World) -> None:
    tell(app, S.APPLIED)
    path = f"{world.path}/changes/runs/1/plan/log.txt"
    answer = alice.get(path)
    assert answer.headers["Content-Length"] == str(len(answer.data)) and "no-store" in answer.headers["Cache-Control"]
    tag = {"If-None-Match": answer.headers["ETag"]}
    assert alice.get(path, headers=tag).status_code == 304
    assert carol.get(path, headers=tag).status_code == 404


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
