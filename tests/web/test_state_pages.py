"""Comparing states, rolling back, uploading one, and the locks on the environment's pages."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from extensions import db
from models import AuditEvent, Environment, Run, StateVersion
from policy.lifecycle import RunStatus
from services import clock, states, unkept
from services.storage import blobs
from tests import factories
from tests.factories import World
from tests.support.client import Client, form_in


def content(serial: int, *names: str, lineage: str = "8a2f", **attributes: Any) -> bytes:
    resources = [
        {
            "mode": "managed",
            "type": "aws_subnet",
            "name": name,
            "instances": [{"attributes": {"id": name} | attributes}],
        }
        for name in names
    ]
    found = {"version": 4, "serial": serial, "lineage": lineage, "terraform_version": "1.11.4", "resources": resources}
    return json.dumps(found).encode()


def save(app: Flask, *contents: bytes) -> None:
    """A finished run for each."""
    with app.app_context():
        for one in contents:
            states.store(factories.run(factories.environment(), RunStatus.APPLIED), one)
            db.session.commit()


def stored(app: Flask) -> list[tuple[int, int, str]]:
    with app.app_context():
        rows = db.session.scalars(select(StateVersion).order_by(StateVersion.number))
        return [(version.number, version.serial, version.source.value) for version in rows]


def events(app: Flask, action: str) -> list[dict[str, Any]]:
    with app.app_context():
        return [e.details for e in db.session.scalars(select(AuditEvent).where(AuditEvent.action == action))]


def text(answer: TestResponse) -> str:
    return unescape(answer.get_data(as_text=True))


def hold_by_terminal(app: Flask, by: str = "bob") -> None:
    with app.app_context():
        info = {"ID": "a-lock", "Operation": "OperationTypeApply", "Who": "bo@laptop"}
        values: dict[str, Any] = {"state_lock_id": "a-lock", "state_lock_at": clock.now(), "state_lock_info": info}
        factories.environment(state_lock_by_id=factories.person(by).id, **values)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_says_what_changed_and_who_saved(app: Flask, alice: Client, world: World) -> None:
    save(app, content(1, "a"), content(2, "a", "b", "c", zone="x"))
    page = text(alice.get(f"{world.path}/states"))
    assert "2 added, 1 changed, 0 removed" in page and "1 added, 0 changed, 0 removed" in page
    assert page.count(">Roll back<") == 1  # not to the current one
    assert "Run #2</a>" in page


def test_twenty_five_on_a_page(app: Flask, bob: Client, world: World) -> None:
    save(app, *(content(serial, "a") for serial in range(1, 28)))
    first = text(bob.get(f"{world.path}/states"))
    assert first.count('data-label="Saved by"') == 25
    assert "<strong>3</strong>" in first and "<strong>2</strong>" not in first
    second = text(bob.get(f"{world.path}/states?before=3"))
    assert second.count('data-label="Saved by"') == 2
    assert "Serial 27 is the current one" in second and ">current<" not in second and "Newest states" in second
    assert "Roll back" not in first  # a member


# -- comparing ---------------------------------------------------------------------------------------------------------


def test_compare_with_the_one_before_or_any_other(app: Flask, bob: Client, world: World) -> None:
    save(app, content(1, "a"), content(2, "a", "b"), content(5, "b", "c", zone="eu", password="hunter2hunter2"))
    newest = text(bob.get(f"{world.path}/states/compare"))
    assert "Serial 2 to serial 5" in newest
    assert "aws_subnet.a</code>" in newest and "removed" in newest
    assert 'zone     = "eu"' in newest
    assert "password = (sensitive value)" in newest and "hunter2" not in newest
    chosen = text(bob.get(f"{world.path}/states/compare?from=1&to=2"))
    assert "Serial 1 to serial 2" in chosen and "<b>+1</b> added" in chosen
    backwards = text(bob.get(f"{world.path}/states/compare?from=2&to=1"))
    assert "Serial 2 to serial 1" in backwards and "<b>-1</b> removed" in backwards
    assert "Serial 1, the first" in text(bob.get(f"{world.path}/states/compare?to=1"))
    assert "No resource and no output differs" in text(bob.get(f"{world.path}/states/compare?from=2&to=2"))
    for query in ("?from=9", "?to=9", "?from=9&to=1"):
        assert bob.get(f"{world.path}/states/compare{query}").status_code == 404
    assert events(app, "state.download") == []


def test_nothing_to_compare(bob: Client, world: World) -> None:
    assert bob.get(f"{world.path}/states/compare").status_code == 404


def test_a_state_that_cannot_be_looked_into(app: Flask, bob: Client, world: World) -> None:
    save(app, b'{"serial": 1, "lineage": "a", "encrypted_data": "x"}', b'{"serial": 2, "lineage": "a", "version": 4}')
    assert "One of the two cannot be looked into" in text(bob.get(f"{world.path}/states/compare"))
    assert "not known" in text(bob.get(f"{world.path}/states"))


def test_many_resources_are_shown_on_demand(app: Flask, bob: Client, world: World) -> None:
    save(app, content(1, *(f"n{number}" for number in range(60))))
    page = text(bob.get(f"{world.path}/states/compare"))
    assert page.count('class="change"') == 50 and "Show all 60" in page
    assert text(bob.get(f"{world.path}/states/compare?resources=all")).count('class="change"') == 60


# -- rolling back ------------------------------------------------------------------------------------------------------


def test_roll_back(app: Flask, alice: Client, world: World) -> None:
    save(app, content(3, "a"), content(7, "a", "b"))
    page = text(alice.get(f"{world.path}/states/1/rollback"))
    assert "AWS is not touched." in page and "as a new serial 8" in page and "<b>-1</b> forgotten" in page
    assert alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "2"}).status_code == 303
    assert stored(app) == [(1, 3, "run"), (2, 7, "run"), (3, 8, "rollback")]
    with app.app_context():
        found = states.content(factories.environment(), 3)[1]
        assert found == content(8, "a")
    [event] = events(app, "state.rollback")
    assert (event["serial"], event["restored"]) == (8, 3)
    page = text(alice.get(f"{world.path}/states"))
    assert "Rolled back to serial 3" in page and "Serial 8 is the current one" in page


def test_a_rollback_keeps_the_present_lineage(app: Flask, alice: Client, world: World) -> None:
    save(app, content(3, "a"))
    upload(alice, world, content(1, "b", lineage="other"), force="yes", name="network")
    assert alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "2"}).status_code == 303
    with app.app_context():
        assert states.content(factories.environment(), 3)[1] == content(2, "a", lineage="other")


@pytest.mark.parametrize("typed", ["", "7", "03", "network"])
def test_a_rollback_needs_the_serial(app: Flask, alice: Client, world: World, typed: str) -> None:
    save(app, content(3, "a"), content(7, "a", "b"))
    answer = alice.submit(f"{world.path}/states/1/rollback", {"serial": typed, "seen": "2"})
    assert answer.status_code == 422 and "Type 3 to roll back to it. Nothing was changed." in text(answer)
    assert len(stored(app)) == 2


def test_a_rollback_is_of_the_list_that_was_seen(app: Flask, alice: Client, world: World) -> None:
    save(app, content(3, "a"), content(7, "a", "b"), content(8, "a"))
    assert alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "2"}).status_code == 409
    assert alice.get(f"{world.path}/states/3/rollback").status_code == 409
    assert alice.submit(f"{world.path}/states/3/rollback", {"serial": "8", "seen": "3"}).status_code == 409
    assert len(stored(app)) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le"])
def test_no_rollback_to_what_terraform_does_not_read(app: Flask, alice: Client, world: World, encoding: str) -> None:
    """Earlier versions of Lockstep kept such files; away from one there is a way."""
    save(app, content(3, "a"), content(7, "a", "b"), content(8, "a"))
    with app.app_context():
        for version in states.versions(factories.environment())[:2]:
            version.blob_id = blobs.put("state", content(version.serial, "a").decode().encode(encoding)).id
        db.session.commit()
    assert alice.get(f"{world.path}/states/2/rollback").status_code == 200
    answer = alice.submit(f"{world.path}/states/2/rollback", {"serial": "7", "seen": "3"})
    assert answer.status_code == 422 and "That is not a state file" in text(answer)
    assert "Nothing was changed." in text(answer) and len(stored(app)) == 3
    assert alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "3"}).status_code == 303
    assert stored(app)[-1] == (4, 9, "rollback")


@pytest.mark.parametrize("held", ["run", "terminal", "hand"])
def test_nothing_is_replaced_while_somebody_holds_it(app: Flask, alice: Client, world: World, held: str) -> None:
    save(app, content(3, "a"), content(7, "a", "b"))
    said = hold(app, held)
    for page in ("1/rollback", "upload"):
        shown = text(alice.get(f"{world.path}/states/{page}"))
        assert "Not now: network is held by" in shown and said in shown
    refused = alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "2"})
    assert refused.status_code == 409 and said in text(refused)
    assert upload(alice, world, content(9, "a")).status_code == 409
    assert len(stored(app)) == 2


def hold(app: Flask, kind: str) -> str:
    """Make the environment held, and answer who says so."""
    if kind == "terminal":
        hold_by_terminal(app, "alice")
        return "a terminal of alice (apply, on bo@laptop)"
    with app.app_context():
        if kind == "run":
            factories.run(factories.environment(), RunStatus.AWAITING_CONFIRMATION, by="bob")
            return "run #3 by bob (apply)"
        factories.lock("Freeze")
    return "bob, who locked it by hand: Freeze"


def test_ones_own_lock_by_hand_is_no_hindrance(app: Flask, alice: Client, world: World) -> None:
    save(app, content(3, "a"), content(7, "a", "b"))
    alice.submit(f"{world.path}/settings/lock", {"reason": "Repair"})
    assert alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "2"}).status_code == 303


def leave_state(app: Flask, content: bytes, own_backend: str | None = None) -> None:
    """Run 2 ended with a state that no place took."""
    with app.app_context():
        run = factories.run(factories.environment(), RunStatus.ERRORED, own_backend=own_backend)
        run.apply.started_at = clock.now()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        said = "It stays on the worker’s machine, in /data/work/phase-4-1."
        unkept.hold(run, unkept.Left(said, md5, "It failed.", "internal"))
        db.session.commit()


def test_a_missing_state_is_told_and_only_an_upload_gets_in(app: Flask, alice: Client, world: World) -> None:
    save(app, content(3, "a"))
    save(app, content(4, "a"))
    leave_state(app, content(9, "a", "b"))
    why = "Run #3 left its newest state on the worker’s machine"
    for where in ("/states", "/changes/runs", "/settings"):
        page = alice.get(f"{world.path}{where}").get_data(as_text=True)
        assert "Locked by Lockstep" in page and why in re.sub("<[^>]+>", "", unescape(page)), where
    assert "Locked by Lockstep" in text(alice.get(world.home))
    settings = text(alice.get(f"{world.path}/settings"))
    assert "in /data/work/phase-4-1." in settings and "unlocks by itself when exactly that state is stored" in settings
    refused = alice.submit(f"{world.path}/states/1/rollback", {"serial": "3", "seen": "2"})
    assert refused.status_code == 409 and "Lockstep: run #3 left its newest state" in text(refused)
    assert upload(alice, world, content(8, "a")).status_code == 303
    assert "Locked by Lockstep" in text(alice.get(f"{world.path}/settings"))
    assert upload(alice, world, content(9, "a", "b")).status_code == 303
    assert "Locked by Lockstep" not in text(alice.get(f"{world.path}/settings"))


def test_an_upload_of_what_is_there_already_settles_too(app: Flask, alice: Client, world: World) -> None:
    """The answer to the first upload was lost, with whatever was to unlock."""
    save(app, content(9, "a"))
    leave_state(app, content(9, "a"))
    assert upload(alice, world, content(9, "a")).status_code == 303
    assert "Locked by Lockstep" not in text(alice.get(f"{world.path}/settings"))
    assert upload(alice, world, content(9, "a")).status_code == 422


def test_a_missing_state_of_another_backend_is_pushed_there(app: Flask, alice: Client, world: World) -> None:
    leave_state(app, b"", "s3")
    settings = text(alice.get(f"{world.path}/settings"))
    assert "Push that state to the configuration’s own backend, then unlock." in settings
    assert "by itself" not in settings.split('id="missing-state"')[1].split("</section>")[0]


def test_somebody_says_that_runs_go_on_without_it(app: Flask, alice: Client, world: World) -> None:
    leave_state(app, content(9, "a"))
    where = f"{world.path}/settings/go-on"
    form = form_in(alice.get(f"{world.path}/settings").get_data(as_text=True), where)
    assert alice.submit(where, form | {"run": "7"}).status_code == 409
    assert alice.submit(where, form).status_code == 303
    assert events(app, "environment.unlock") == [{}]
    again = alice.submit(where, form)
    assert again.status_code == 409 and "That lock is gone already. Nothing was changed" in text(again)
    assert "Locked by Lockstep" not in text(alice.get(f"{world.path}/settings"))


# -- uploading ---------------------------------------------------------------------------------------------------------


def upload(client: Client, world: World, body: bytes, **fields: str) -> TestResponse:
    parts = [(f'"{name}"', value.encode()) for name, value in {"csrf_token": client.token(), **fields}.items()]
    parts.append(('"state"; filename="terraform.tfstate"', body))
    head = b"--cut\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n"
    form = b"".join(head % (name.encode(), value) for name, value in parts) + b"--cut--\r\n"
    return client.post(f"{world.path}/states/upload", data=form, content_type="multipart/form-data; boundary=cut")


def test_the_first_state_is_uploaded(app: Flask, alice: Client, world: World) -> None:
    assert "Replace although" not in text(alice.get(f"{world.path}/states/upload"))
    assert upload(alice, world, content(12, "a")).status_code == 303
    assert stored(app) == [(1, 12, "upload")]
    assert "Uploaded" in text(alice.get(f"{world.path}/states"))
    assert events(app, "state.upload")[0]["forced"] is False


def test_what_does_not_continue_needs_the_environments_name(app: Flask, alice: Client, world: World) -> None:
    save(app, content(7, "a"))
    other = content(2, "b", lineage="other")
    refused = upload(alice, world, other)
    assert refused.status_code == 422 and "another lineage" in text(refused)
    for typed in ("", "networks"):
        refused = upload(alice, world, other, force="yes", name=typed)
        assert refused.status_code == 422 and 'id="name-error"' in text(refused)
    assert upload(alice, world, content(7, "b")).status_code == 422
    assert upload(alice, world, content(7, "a")).status_code == 422  # the current one
    assert stored(app) == [(1, 7, "run")]
    assert upload(alice, world, other, force="yes", name="network").status_code == 303
    assert stored(app) == [(1, 7, "run"), (2, 2, "upload")]
    assert events(app, "state.upload")[0]["forced"] is True


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b'{"version": 3, "serial": 1, "lineage": "a"}',
        *(content(1, "a").decode().encode(encoding) for encoding in ("utf-16", "utf-8-sig")),
    ],
    ids=range(5),
)
def test_what_is_no_state_is_refused(app: Flask, alice: Client, world: World, body: bytes) -> None:
    answer = upload(alice, world, body)
    assert answer.status_code == 422 and 'id="state-error"' in text(answer)
    assert stored(app) == []


def test_an_upload_is_as_large_as_the_setting_allows(
    app: Flask, alice: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(app.config["LOCKSTEP"], max_state_bytes=3 << 20)
    monkeypatch.setitem(app.config, "LOCKSTEP", small)
    assert upload(alice, world, content(1, "a", text="x" * (5 << 19))).status_code == 303
    assert upload(alice, world, content(2, "a", text="x" * (4 << 20))).status_code == 413
    assert len(stored(app)) == 1


# -- locks -------------------------------------------------------------------------------------------------------------


def test_the_three_locks_are_told_apart(app: Flask, alice: Client, bob: Client, world: World) -> None:
    hold_by_terminal(app)
    alice.submit(f"{world.path}/settings/lock", {"reason": "Freeze"})
    for path in ("states", "settings"):
        page = text(alice.get(f"{world.path}/{path}"))
        assert "Locked by alice" in page and "State held by a terminal of bob" in page
    page = text(alice.get(f"{world.path}/settings"))
    assert "Held by a terminal" in page and "apply, on bo@laptop" in page and "Since <time" in page
    with app.app_context():
        factories.environment(state_lock_id=None)
        factories.run(factories.environment(), RunStatus.APPLYING, by="bob")
    page = text(bob.get(f"{world.path}/settings"))
    assert "Held by a run" in page and "Run #1</a> by bob" in page and "Held by a terminal" not in page
    assert "by bob holds network</strong> for its apply" in text(bob.get(f"{world.path}/states"))


def test_who_may_take_a_terminals_lock_off(app: Flask, alice: Client, bob: Client, world: World) -> None:
    hold_by_terminal(app, "alice")
    assert "Take the lock off" not in text(bob.get(f"{world.path}/settings"))
    assert bob.submit(f"{world.path}/states/unlock", {"lock": "a-lock"}).status_code == 403
    assert alice.submit(f"{world.path}/states/unlock", {"lock": "another"}).status_code == 409
    with app.app_context():
        run: Run = factories.run(factories.environment(), RunStatus.PENDING)
        run_id = run.id
    assert alice.submit(f"{world.path}/states/unlock", {"lock": "a-lock"}).status_code == 303
    assert alice.submit(f"{world.path}/states/unlock", {"lock": "a-lock"}).status_code == 409
    assert events(app, "state.force_unlock") == [{"id": "a-lock", "holder": "alice"}]
    with app.app_context():
        found = db.session.scalars(select(Environment).where(Environment.name == "network")).one()
        assert (found.state_lock_id, found.active_run_id) == (None, run_id)  # what waited has started
    hold_by_terminal(app, "carol")
    assert "Take the lock off" in text(alice.get(f"{world.path}/settings"))  # an owner


def test_the_page_for_terminals_has_the_real_address_and_no_secret(bob: Client, world: World) -> None:
    page = text(bob.get(f"{world.path}/states/terminal"))
    assert page.count('"http://localhost/api/v1/states/acme/network"') == 3
    assert "TF_HTTP_USERNAME=bob" in page and "lsp_" not in page
