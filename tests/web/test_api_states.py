"""What terraform's http backend speaks to, message by message. tests/worker/test_terminal.py does it with terraform."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from extensions import db
from models import ApiToken, AuditEvent, Environment, StateVersion, TokenScope
from policy.lifecycle import RunStatus
from policy.permissions import Access, Role
from services import clock, holds, members, tokens, unkept
from services.storage.sqlite import read_only
from tests import factories
from tests.factories import World
from tests.support import lab
from tests.support.postgres import only_sqlite
from tests.web.test_transactions import Slow, Writer

PATH = "/api/v1/states/acme/network"


def state(serial: int = 1, lineage: str = "8a2f", text: str = "a", **more: Any) -> bytes:
    instance = {"attributes": {"id": text}}
    one = {"mode": "managed", "type": "terraform_data", "name": "it", "instances": [instance]}
    found = {"version": 4, "serial": serial, "lineage": lineage, "terraform_version": "1.11.4", "resources": [one]}
    return json.dumps(found | more).encode()


def lock_info(identifier: str = "0b1c-lock", **more: str) -> dict[str, str]:
    """What terraform sends."""
    return {
        "ID": identifier, "Operation": "OperationTypeApply", "Info": "", "Who": "al@laptop", "Version": "1.11.4",
        "Created": "2026-11-23T21:50:30.463050373Z", "Path": "", **more,
    }  # fmt: skip


def md5(content: bytes) -> str:
    """As Content-MD5 says it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


class Terminal:
    """Somebody's terraform."""

    def __init__(self, app: Flask, name: str, scope: TokenScope = TokenScope.QUEUE, days: int | None = 30) -> None:
        self.app, self.name = app, name
        self.client: FlaskClient = app.test_client()
        with app.app_context():
            token, self.text = tokens.create(factories.person(name), "laptop", scope, days)
            self.number = token.id

    def send(
        self, method: str, body: bytes | dict[str, str] | None = None, path: str = PATH, **options: Any
    ) -> TestResponse:
        options.setdefault("auth", (self.name, self.text))
        options.setdefault("data", json.dumps(body).encode() if isinstance(body, dict) else body)
        return self.client.open(path, method=method, **options)

    def lock(self, identifier: str = "0b1c-lock") -> TestResponse:
        return self.send("LOCK", lock_info(identifier))

    def save(self, content: bytes, lock: str = "") -> TestResponse:
        return self.send("POST", content, f"{PATH}?ID={lock}" if lock else PATH)


@pytest.fixture
def al(app: Flask, world: World) -> Terminal:
    """Alice's, an owner."""
    return Terminal(app, "alice")


@pytest.fixture
def bo(app: Flask, world: World) -> Terminal:
    """Bob's, a member."""
    return Terminal(app, "bob")


def stored(app: Flask) -> list[tuple[int, str, str | None, dict[str, int] | None]]:
    with app.app_context():
        rows = db.session.scalars(select(StateVersion).order_by(StateVersion.number))
        return [(v.serial, v.source.value, v.created_by.name if v.created_by else None, v.changes) for v in rows]


def events(app: Flask, *actions: str) -> list[tuple[str, str]]:
    with app.app_context():
        rows = db.session.scalars(select(AuditEvent).where(AuditEvent.action.in_(actions)).order_by(AuditEvent.id))
        return [(event.action, event.actor_name) for event in rows]


def _expire(terminal: Terminal) -> None:
    db.session.get_one(ApiToken, terminal.number).expires_at = clock.now() - timedelta(seconds=1)
    db.session.commit()


def _remove(elsewhere: str | None) -> None:
    if elsewhere is not None:
        factories.member("bob", elsewhere, Role.MEMBER)
    members.remove(factories.member("alice"), "bob")


def _require_second_factor(_terminal: Terminal) -> None:
    factories.organization("acme").second_factor_required = True
    db.session.commit()


@dataclasses.dataclass(frozen=True)
class End:
    """What ends somebody's way in, and how the two interfaces then answer."""

    happens: Callable[[Terminal], object]
    states: int
    runs: int


#: Of bob, a member of acme alone.
ENDS = {
    "the token is revoked": End(lambda bo: tokens.revoke(factories.person("bob"), bo.number), 401, 401),
    "it expires": End(_expire, 401, 401),
    "he is removed": End(lambda _: _remove(None), 401, 401),
    "he is removed, and belongs elsewhere": End(lambda _: _remove("other"), 403, 404),
    "his access is withdrawn": End(lambda _: factories.grant(factories.environment(), "bob", None), 403, 404),
    "he may read only": End(lambda _: factories.grant(factories.environment(), "bob", Access.READ), 403, 403),
    "a second factor is required": End(_require_second_factor, 403, 403),
}


def slowly(who: Terminal, method: str, body: bytes, path: str, end: End, **options: Any) -> TestResponse:
    """Send a body during which something happens in another session, once."""
    happened: list[lab.Beside] = []

    def meanwhile() -> None:
        if not happened:
            happened.append(lab.Beside(who.app, lambda: end.happens(who)))
            happened[0].result()

    answer = who.send(method, None, path, input_stream=Slow(body, meanwhile), content_length=len(body), **options)
    assert happened
    return answer


# -- who comes in ------------------------------------------------------------------------------------------------------


def test_without_the_right_token_nobody_comes_in(app: Flask, al: Terminal, bo: Terminal) -> None:
    wrong = [None, ("alice", "lsp_wrong"), ("bob", al.text), ("alice", ""), ("", al.text), ("Alice", al.text)]
    for auth in wrong:
        answer = al.send("GET", auth=auth)
        assert answer.status_code == 401, auth
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert al.send("GET", auth=None, headers={"Authorization": f"Bearer {al.text}"}).status_code == 401
    assert al.send("GET").status_code == 204


def test_a_password_is_no_token_and_a_cookie_is_none(app: Flask, al: Terminal, world: World) -> None:
    assert al.send("GET", auth=("alice", factories.PASSWORD)).status_code == 401
    signed_in = app.test_client()
    signed_in.sign_in("alice")  # type: ignore[attr-defined]
    assert signed_in.get(PATH).status_code == 401


def test_a_revoked_and_an_expired_token_are_refused(app: Flask, al: Terminal) -> None:
    with app.app_context():
        db.session.get_one(ApiToken, al.number).expires_at = clock.now() - timedelta(seconds=1)
        db.session.commit()
    assert al.send("GET").status_code == 401
    other = Terminal(app, "alice", days=None)
    assert other.send("GET").status_code == 204
    with app.app_context():
        tokens.revoke(factories.person("alice"), other.number)
    assert other.send("GET").status_code == 401


@pytest.mark.parametrize("method", ["POST", "LOCK", "UNLOCK"])
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_while_the_body_comes_lets_nothing_in(app: Flask, bo: Terminal, end: str, method: str) -> None:
    """However long somebody keeps a body open that they began with a good token."""
    if method == "UNLOCK":
        assert bo.lock().status_code == 200
    body = state() if method == "POST" else json.dumps(lock_info()).encode()
    answer = slowly(bo, method, body, PATH, ENDS[end])
    assert (answer.status_code, answer.mimetype) == (ENDS[end].states, "text/plain")
    assert answer.headers.get("WWW-Authenticate", "").startswith("Basic ") is (answer.status_code == 401)
    assert stored(app) == []
    with app.app_context():
        assert (factories.environment().state_lock_id is not None) is (method == "UNLOCK")


def test_strangers_find_what_nobody_finds(app: Flask, al: Terminal, world: World) -> None:
    """And neither is a 404, which terraform takes for a state that is still to be made."""
    with app.app_context():
        factories.member("nick", role=Role.MEMBER, access=None)
    carol, nick = Terminal(app, "carol"), Terminal(app, "nick")
    elsewhere = [PATH.replace("network", "nothing"), PATH.replace("acme", "nobody"), f"{PATH}/", f"{PATH}/default",
        "/api/v1/states/acme", "/api/v1/states/", "/api/v1/states"]  # fmt: skip
    tried = [(carol, PATH), (nick, PATH), *((al, path) for path in elsewhere)]
    for method in ("GET", "POST", "LOCK", "UNLOCK"):
        answers = [who.send(method, None if method == "GET" else lock_info(), path) for who, path in tried]
        assert {answer.status_code for answer in answers} == {403}, method
        assert len({(answer.get_data(), answer.content_type) for answer in answers}) == 1
        assert b"Nothing was changed." in answers[0].get_data()
    assert al.send("GET").status_code == 204


def test_a_token_for_reading_reads(app: Flask, al: Terminal) -> None:
    assert al.save(state()).status_code == 200
    reader = Terminal(app, "alice", TokenScope.READ)
    assert reader.send("GET").get_data() == state()
    assert reader.save(state(2)).status_code == 403
    assert reader.lock().status_code == 403
    assert reader.send("UNLOCK", lock_info()).status_code == 403
    assert [row[0] for row in stored(app)] == [1]


def test_other_methods_are_none(al: Terminal) -> None:
    for method in ("DELETE", "PUT", "PATCH"):
        assert al.send(method).status_code == 405


def test_when_it_was_last_used_is_kept_once_a_minute(app: Flask, al: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def last() -> Any:
        with app.app_context():
            return db.session.get_one(ApiToken, al.number).last_used_at

    assert last() is None
    al.send("GET")
    first = last()
    al.send("GET")
    assert last() == first is not None
    later = first + timedelta(seconds=61)
    monkeypatch.setattr(clock, "now", lambda: later)
    al.send("GET")
    assert last() == later


# -- states ------------------------------------------------------------------------------------------------------------


def test_what_was_written_comes_back_byte_by_byte(app: Flask, al: Terminal, bo: Terminal) -> None:
    content = state() + b"\n\n"
    assert al.lock().status_code == 200
    assert al.save(content, "0b1c-lock").status_code == 200
    answer = bo.send("GET")
    assert answer.get_data() == content
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-MD5"] == md5(content)
    assert stored(app) == [(1, "terminal", "alice", {"add": 1, "change": 0, "destroy": 0})]
    assert events(app, "state.lock", "state.terminal", "state.download") == [
        ("state.lock", "alice"), ("state.terminal", "alice"), ("state.download", "bob"),
    ]  # fmt: skip


def test_every_save_is_a_version_and_the_same_one_again_is_none(app: Flask, al: Terminal) -> None:
    for content in (state(1), state(2, text="b"), state(2, text="b"), state(3, text="b")):
        assert al.save(content).status_code == 200
    changes = [row[3] for row in stored(app)]
    assert [row[0] for row in stored(app)] == [1, 2, 3]
    assert changes[1] == {"add": 0, "change": 1, "destroy": 0}
    assert changes[2] == {"add": 0, "change": 0, "destroy": 0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (state(2, text="other"), "the current serial 2, but another content"),
        (state(1), "serial 1, older than the current 2"),
        (state(3, lineage="another"), "another lineage"),
    ],
)
def test_a_state_that_does_not_continue_is_refused(app: Flask, al: Terminal, content: bytes, said: str) -> None:
    al.save(state(2))
    answer = al.save(content)
    assert (answer.status_code, said in answer.get_data(as_text=True)) == (409, True)
    assert [row[0] for row in stored(app)] == [2]
    assert al.send("GET").get_data() == state(2)


def test_a_newer_terraform_without_changes_keeps_the_serial(app: Flask, al: Terminal) -> None:
    al.save(state(2))
    assert al.save(state(2, terraform_version="1.12.0")).status_code == 200
    assert [row[0] for row in stored(app)] == [2, 2]


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", b"[]", b"{}", b'{"version": 3, "serial": 1, "lineage": "a"}',
     state(text="\\ud800").replace(b"\\\\", b"\\"),
     b'{"version": 4, "serial": true, "lineage": "a"}', b'{"version": 4, "serial": 1, "lineage": ""}',
     b'{"version": 4, "serial": 1, "lineage": "a", "resources": [1]}', b"[" * 100_000,
     b'{"version": 4, "serial": 1, "lineage": "a", "outputs": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}"],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_state_is_refused(app: Flask, al: Terminal, content: bytes) -> None:
    assert al.save(content).status_code == 400
    assert stored(app) == []


def test_a_body_that_was_cut_is_refused(app: Flask, al: Terminal) -> None:
    digest = md5(state(1))
    assert al.send("POST", state(1), headers={"Content-MD5": digest}).status_code == 200
    answer = al.send("POST", state(2), headers={"Content-MD5": digest})
    assert answer.status_code == 400
    assert [row[0] for row in stored(app)] == [1]


def test_a_state_is_as_large_as_the_setting_allows(app: Flask, al: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(app.config["LOCKSTEP"], max_state_bytes=3 << 20)
    monkeypatch.setitem(app.config, "LOCKSTEP", small)
    assert al.save(state(1, text="x" * (5 << 19))).status_code == 200  # above the limit of other requests
    answer = al.save(state(2, text="x" * (3 << 20)))
    assert answer.status_code == 413
    assert "MAX_STATE_MB" in answer.get_data(as_text=True)


@only_sqlite("there one writer keeps all others waiting")
def test_a_slow_body_keeps_nobody_from_writing(app: Flask, al: Terminal) -> None:
    writer = Writer(app)
    body = state(1)
    answer = al.send("POST", None, input_stream=Slow(body, writer.write), content_length=len(body))
    assert answer.status_code == 200
    assert writer.seen and all(could for could, _ in writer.seen)


# -- locks -------------------------------------------------------------------------------------------------------------


def test_the_second_terminal_gets_the_holder(app: Flask, al: Terminal, bo: Terminal) -> None:
    assert al.lock("first").status_code == 200
    refused = bo.lock("second")
    assert refused.status_code == 423
    held = json.loads(refused.get_data())
    assert held["ID"].startswith("first (alice, apply, on al@laptop since ")
    assert (held["Who"], held["Operation"]) == ("alice (al@laptop)", "OperationTypeApply")
    assert bo.save(state()).status_code == 423
    assert bo.save(state(), "second").status_code == 423
    assert bo.save(state(), "first").status_code == 423  # seen, but not bob's
    assert bo.send("UNLOCK", lock_info("second")).status_code == 423
    assert bo.send("UNLOCK", lock_info("first")).status_code == 403
    assert bo.send("UNLOCK", b"").status_code == 403
    assert stored(app) == []
    assert al.save(state(), "first").status_code == 200
    assert al.send("UNLOCK", lock_info("first")).status_code == 200
    assert bo.lock("second").status_code == 200


def test_answers_that_were_lost_may_be_asked_for_again(app: Flask, al: Terminal) -> None:
    assert [al.lock().status_code for _ in range(2)] == [200, 200]
    assert [al.send("UNLOCK", lock_info()).status_code for _ in range(2)] == [200, 200]
    assert events(app, "state.lock", "state.unlock") == [("state.lock", "alice"), ("state.unlock", "alice")]


def test_an_owner_takes_a_lock_off_without_its_id(app: Flask, al: Terminal, bo: Terminal) -> None:
    bo.lock()
    assert al.send("UNLOCK", b"").status_code == 200
    assert events(app, "state.force_unlock") == [("state.force_unlock", "alice")]
    bo.lock()
    assert bo.send("UNLOCK", None).status_code == 200  # their own


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"nonsense", b'{"ID": "a\\u0000b"}', b'{"ID": "' + b"x" * 101 + b'"}']
)
def test_a_lock_needs_an_id(al: Terminal, body: bytes) -> None:
    assert al.send("LOCK", body).status_code == 400


def test_of_a_lock_only_text_is_kept(app: Flask, al: Terminal, bo: Terminal) -> None:
    """Half a pair of surrogates is on no page, and NUL is in no PostgreSQL."""
    body = b'{"ID": "it", "Operation": "a\\ud800", "Who": "al@\\udfff\\u0000", "Info": "\\ud83d\\ude00"}'
    assert al.send("LOCK", body).status_code == 200
    held = json.loads(bo.lock().get_data())
    assert (held["Operation"], held["Who"], held["Info"]) == ("a?", "alice (al@?\ufffd)", "\U0001f600")
    with app.app_context():
        event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "state.lock")).one()
        assert event.details == {"id": "it", "operation": "a?"}


def test_a_run_that_holds_the_environment_is_named(app: Flask, al: Terminal) -> None:
    with app.app_context():
        factories.run(factories.environment(), RunStatus.APPLYING, by="bob")
    for answer in (al.lock(), al.save(state())):
        assert answer.status_code == 423
        held = json.loads(answer.get_data())
        assert (held["Who"], held["Operation"]) == ("run #1 (bob)", "apply")
        assert held["ID"] == "run #1 (bob) of Lockstep, apply"
    assert stored(app) == []


def test_a_lock_by_hand_keeps_others_out_and_its_holder_in(app: Flask, al: Terminal, bo: Terminal) -> None:
    with app.app_context():
        person = factories.person("bob")
        factories.environment(locked_by_id=person.id, lock_reason="Moving the network", locked_at=clock.now())
    held = json.loads(al.lock().get_data())
    assert (held["Info"], held["ID"]) == ("Moving the network", "locked by bob: Moving the network")
    assert al.save(state()).status_code == 423
    assert bo.lock().status_code == 200
    assert bo.save(state(), "0b1c-lock").status_code == 200


def test_a_terminal_waits_while_a_state_is_missing(app: Flask, al: Terminal) -> None:
    """It would plan without it."""
    with app.app_context():
        unkept.hold(
            factories.run(factories.environment(), RunStatus.ERRORED), unkept.Left("It stays there.", None, "", "")
        )
        db.session.commit()
    answer = al.lock()
    assert answer.status_code == 423
    held = json.loads(answer.get_data())
    why = "run #1 left its newest state on the worker’s machine"
    assert (held["Who"], held["Info"], held["ID"]) == ("Lockstep", why, f"locked by Lockstep: {why}")
    assert al.save(state()).status_code == 423


def test_a_terminal_and_a_run_exclude_each_other(app: Flask, al: Terminal) -> None:
    al.lock()
    with app.app_context():
        run = factories.run(factories.environment(), RunStatus.PENDING)
        assert not holds.hold(run.environment_id, run.id)
        found = holds.holder(run.environment)
        assert found is not None
        assert (found.kind.value, found.sentence) == ("terminal", "a terminal of alice (apply, on al@laptop)")
        db.session.rollback()
    al.send("UNLOCK", lock_info())
    with app.app_context():  # the pending run has started
        active = db.session.scalars(select(Environment).where(Environment.name == "network")).one().active_run_id
        assert active is not None
    assert al.lock().status_code == 423


def test_reading_never_begins_to_write(app: Flask, al: Terminal) -> None:
    al.send("GET")
    assert read_only.get() is False


def test_whose_lock_was_taken_off_is_kept(app: Flask, al: Terminal, bo: Terminal) -> None:
    bo.lock()
    al.send("UNLOCK", b"")
    with app.app_context():
        event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "state.force_unlock")).one()
        assert event.details == {"id": "0b1c-lock", "holder": "bob"}
