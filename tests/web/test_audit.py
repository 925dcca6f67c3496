"""The audit page: who sees which events, the filters, the files; and the evidence of a run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent
from policy.lifecycle import Event, RunStatus
from policy.mfa import MfaLevel, PhaseKind
from policy.permissions import Access
from services import audit, clock, members, teams
from services.execution import ending
from services.storage import logs
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories


@pytest.fixture
def page(world: World) -> str:
    return f"{world.home}/audit"


def happened(app: Flask, action: str, by: str | None = "alice", **more: object) -> None:
    with app.app_context():
        of = {"organization": factories.organization("acme")} if by else {}
        audit.record(action, factories.person(by) if by else None, **of, **more)  # type: ignore[arg-type]
        db.session.commit()


def actions(client: Client, page: str, **asked: str) -> list[str]:
    """What the page shows, newest first, without the sign-ins of the fixtures."""
    answer = client.get(page, query_string=asked)
    assert answer.status_code == 200
    found = re.findall(r"<span><code>([a-z_.]+)</code>", answer.text)
    return [action for action in found if action != "session.sign_in"]


def test_details_are_read_as_before_and_after_and_as_text_only(app: Flask, alice: Client, page: str) -> None:
    happened(app, "thing.changed", changed={"level": ["never", "always"]}, name="<script>alert(1)</script>")
    text = alice.get(page).text
    assert "level never → always" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_a_list_of_two_is_read_as_a_change_only_where_it_is_one(app: Flask, alice: Client, page: str) -> None:
    with app.app_context():
        owner, team = factories.member("alice"), factories.team("platform", "alice", "bob")
        factories.grant(factories.environment(), team, Access.READ)
        factories.grant(factories.environment("shelf"), team, Access.ADMIN)
        teams.rename(owner, team, "on-call")
        teams.remove(owner, team)
        audit.record("audit.taken_over", None, events=2, places=[4, 5])
        db.session.commit()
    text = alice.get(page).text
    assert "team: platform → on-call" in text
    assert "people: alice, bob" in text and "access: network read, shelf admin" in text and "places: 4, 5" in text


def test_filters_find_by_person_action_environment_and_day(app: Flask, alice: Client, page: str) -> None:
    happened(app, "thing.one")
    happened(app, "thing.two", by="bob")
    happened(app, "thingy.three", by="bob")
    with app.app_context():
        audit.record("thing.there", factories.person("alice"), environment=factories.environment())
        db.session.commit()
    assert {"thing.one", "thing.two", "thingy.three", "thing.there"} <= set(actions(alice, page))
    assert actions(alice, page, who="bob", action="thing") == ["thing.two"]
    assert actions(alice, page, action="thing.one") == ["thing.one"]
    assert actions(alice, page, environment="network") == ["thing.there"]
    assert actions(alice, page, environment="elsewhere") == []
    today, tomorrow = (f"{clock.now() + timedelta(days=days):%Y-%m-%d}" for days in (0, 1))
    assert actions(alice, page, action="thing.one", **{"from": today, "to": today}) == ["thing.one"]
    assert actions(alice, page, **{"from": tomorrow}) == []


def test_a_wrong_day_is_said_beside_its_field(alice: Client, page: str) -> None:
    answer = alice.get(f"{page}?from=yesterday&to=0001-01-01")
    assert answer.status_code == 422
    assert "A day is written YYYY-MM-DD" in answer.text


def test_older_events_are_on_further_pages_that_keep_the_filters(app: Flask, alice: Client, page: str) -> None:
    with app.app_context():
        for number in range(60):
            audit.record("thing.many", None, organization=factories.organization("acme"), number=number)
        db.session.commit()
    first = alice.get(f"{page}?action=thing").text
    older = re.search(r'href="([^"]*before=\d+[^"]*)"', first)
    assert older is not None and "action=thing" in older.group(1)
    second = alice.get(older.group(1).replace("&amp;", "&")).text
    assert "number: 59" in first and "number: 9<" not in first
    assert "number: 9<" in second and "number: 0<" in second and "number: 59" not in second


def test_sign_ins_are_shown_to_owners_of_that_persons_organizations_only(
    app: Flask, alice: Client, carol: Client, anonymous: Client, page: str
) -> None:
    anonymous.submit("/login", {"username": "bob", "password": "wrong wrong wrong"})
    anonymous.submit("/login", {"username": "carol", "password": "wrong wrong wrong"})
    shown = alice.get(f"{page}?action=session").text
    assert "session.refused" in shown and "user: bob" in shown
    assert "user: carol" not in shown
    hers = carol.get("/terraform/other/audit").text
    assert "user: carol" in hers and "user: bob" not in hers and "alice" not in hers


@pytest.mark.parametrize("way", ["leave", "remove"])
def test_what_somebody_did_until_they_went_stays_and_what_they_do_later_is_not_shown(
    app: Flask, alice: Client, bob: Client, carol: Client, anonymous: Client, page: str, way: str
) -> None:
    anonymous.submit("/login", {"username": "bob", "password": "wrong wrong wrong"})
    bob.submit("/settings/tokens", {"name": "backdoor", "scope": "read", "days": "30"})
    before = actions(alice, page, who="bob")
    assert "token.create" in before and "session.refused" in before
    with app.app_context():
        owner, member = factories.member("alice"), factories.member("bob")
        members.leave(member) if way == "leave" else members.remove(owner, "bob")
    left = actions(alice, page, who="bob")
    assert set(before) < set(left) and f"member.{way}" in left
    assert "session.sign_in" in alice.get(f"{page}?who=bob").text
    assert '<option value="bob"' in alice.get(page).text
    app.test_client().sign_in("bob")  # type: ignore[attr-defined]
    bob.sign_in("bob").submit("/settings/tokens", {"name": "later", "scope": "read", "days": "30"})
    anonymous.submit("/login", {"username": "bob", "password": "wrong wrong wrong"})
    assert actions(alice, page, who="bob") == left and "later" not in alice.get(page).text
    told = [json.loads(line) for line in alice.get(f"{page}.jsonl?who=bob").text.splitlines()]
    assert [told["details"]["name"] for told in told if told["action"] == "token.create"] == ["backdoor"]
    assert "backdoor" not in carol.get("/terraform/other/audit").text


def test_the_files_hold_what_matches_and_taking_one_is_an_event(app: Flask, alice: Client, page: str) -> None:
    happened(app, "thing.one", name="ü")
    answer = alice.get(f"{page}.jsonl?action=thing")
    assert answer.headers["Content-Disposition"] == "attachment; filename=acme-audit.jsonl"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (event,) = [json.loads(line) for line in answer.text.splitlines()]
    assert (event["who"], event["action"], event["details"]) == ("alice", "thing.one", {"name": "ü"})
    assert actions(alice, page)[0] == "audit.export"
    rows = list(csv.DictReader(io.StringIO(alice.get(f"{page}.csv?action=thing").text)))
    assert [row["action"] for row in rows] == ["thing.one"]
    with app.app_context():
        kept = db.session.scalars(select(AuditEvent).filter_by(action="audit.export")).all()
        assert [made.details["format"] for made in kept] == ["jsonl", "csv"]
        assert kept[0].details["filters"] == {"action": "thing"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "|"])
def test_a_cell_is_no_formula(app: Flask, alice: Client, page: str, start: str) -> None:
    happened(app, f"{start}1+cmd()")
    (row,) = [row for row in csv.DictReader(io.StringIO(alice.get(f"{page}.csv").text, "")) if "cmd" in row["action"]]
    assert row["action"] == f"'{start}1+cmd()"


def test_an_export_of_many_events_holds_each_once_in_order(app: Flask, alice: Client, page: str) -> None:
    with app.app_context():
        for number in range(1203):
            audit.record("thing.many", None, organization=factories.organization("acme"), number=number)
        db.session.commit()
    lines = alice.get(f"{page}.jsonl?action=thing.many").text.splitlines()
    assert [json.loads(line)["details"]["number"] for line in lines] == list(range(1203))


def test_what_lockstep_itself_does_with_a_run_is_there_like_all_else(
    app: Flask, alice: Client, bob: Client, page: str, world: World
) -> None:
    with app.app_context():
        factories.configuration(factories.environment())
    there = f"{world.path}/changes/runs"
    assert bob.submit(there).status_code == 303
    assert actions(alice, page, action="run") == ["run.start", "run.create"]
    assert actions(alice, page, action="run.start", who="Lockstep", environment="network") == ["run.start"]
    text = alice.get(f"{page}?action=run.start").text
    assert "status: Pending → Plan queued" in text and '<option value="run.start"' in text
    line = json.loads(alice.get(f"{page}.jsonl?action=run.start").text)
    assert (line["who"], line["run"], line["details"]["status"]) == ("Lockstep", 1, ["Pending", "Plan queued"])
    assert "status: Pending → Plan queued" in bob.get(f"{there}/1/evidence").text
    file = json.loads(bob.get(f"{there}/1/evidence.json").text)
    assert [event["action"] for event in file["events"]] == ["run.create", "run.start"]


def test_the_evidence_tells_who_which_device_which_plan_and_which_state(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        run = factories.run(
            factories.environment(), RunStatus.APPLIED, plan_digest="ab" * 32, terraform_version="1.11.4"
        )
        apply = run.phase(PhaseKind.APPLY)
        apply.authenticated_by, apply.authenticated_at = factories.person("alice"), clock.now()
        apply.started_at = clock.now()
        apply.mfa_serial, apply.caller_arn = "arn:aws:iam::1:mfa/alice", "arn:aws:sts::1:assumed-role/deploy/alice"
        logs.say(apply.id, "Apply complete")
        state = factories.state(run, serial=7)
        audit.record("run.applied", None, run=run)
        db.session.commit()
        number, md5, text = run.number, state.md5, b"".join(logs.raw(apply.id))
    address = f"{world.path}/changes/runs/{number}"
    shown = bob.get(f"{address}/evidence").text
    file = bob.get(f"{address}/evidence.json")
    log = bob.get(f"{address}/apply/log.txt").data
    assert log == text and text
    digest = hashlib.sha256(log).hexdigest()
    for fact in ("alice", "arn:aws:iam::1:mfa/alice", "assumed-role/deploy/alice", "ab" * 32, "1.11.4", md5, digest):
        assert fact in shown and fact in file.text
    told = json.loads(file.text)
    assert told["phases"][1]["log_sha256"] == digest
    assert told["states"] == [told["states"][0] | {"serial": 7, "md5": md5}]
    assert [event["action"] for event in told["events"]] == ["run.applied"]
    assert "address" not in file.text
    assert bob.get(f"{address}/evidence.json").data == file.data


def test_the_evidence_of_a_phase_that_never_began_says_neither_that_it_ran_nor_that_no_code_was_asked(
    app: Flask, alice: Client, world: World
) -> None:
    with app.app_context():
        stories.keys_for("alice")
        run = stories.story(factories.environment(mfa_level=MfaLevel.APPLIES_ONLY), RunStatus.APPLYING)
        ending.close_gate(run.apply, Event.NEVER_BEGAN, "The worker was lost.")
    address = f"{world.path}/changes/runs/1"
    card = alice.get(f"{address}/evidence").text.split('id="apply-heading"')[1].split("</section>")[0]
    assert "accepted" in card and "no code was asked" not in card
    assert "<dt>Authenticated by</dt><dd>–</dd>" in card and "<dt>Ran</dt><dd>–</dd>" in card
    card = alice.get(f"{address}/evidence").text.split('id="plan-heading"')[1].split("</section>")[0]
    assert "nobody: no code was asked" in card
    assert alice.submit(f"{address}/discard").status_code == 303
    page = alice.get(address).text
    assert "Nothing was applied." in page and "What was finished before" not in page


def test_the_evidence_says_no_code_was_asked_only_where_none_was_tried(app: Flask, alice: Client, world: World) -> None:
    """A database from before a closed gate forgot when its phase had begun."""
    with app.app_context():
        stories.keys_for("alice")
        run = stories.story(factories.environment(mfa_level=MfaLevel.APPLIES_ONLY), RunStatus.APPLYING)
        ending.close_gate(run.apply, Event.NEVER_BEGAN, "The worker was lost.")
        run.apply.started_at = clock.now()
        db.session.commit()
    card = alice.get(f"{world.path}/changes/runs/1/evidence").text.split('id="apply-heading"')[1]
    assert "accepted" in card and "no code was asked" not in card
