"""The control plane and the guard of the front door."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from demo.aws.server import Standin
from tests.unit.demo.conftest import MovableClock, authenticate, client, long_lived

JSON = {"Content-Type": "application/json"}


def ask(
    standin: Standin, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, str, http.client.HTTPResponse]:
    """Status, text and answer of one control request."""
    connection = http.client.HTTPConnection("127.0.0.1", standin.port, timeout=15)
    try:
        connection.request(method, f"/_standin/{path}", body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer
    finally:
        connection.close()


def test_the_page_of_codes(standin: Standin) -> None:
    status, page, answer = ask(standin, "GET", "")
    assert status == 200 and answer.getheader("Cache-Control") == "no-store"
    for user in standin.users.values():
        assert user.mfa_serial in page and standin.code(user.name) in page
        assert user.mfa_secret not in page and user.secret_access_key not in page


def test_a_code_is_fresh_until_it_is_used(standin: Standin, clock: MovableClock) -> None:
    seen = []
    for _ in range(3):
        seen.append(ask(standin, "GET", "code/alice")[1].strip())
        authenticate(standin)
    assert seen == [standin.code("alice"), standin.code("alice", 1), standin.code("alice", -1)]
    status, _, answer = ask(standin, "GET", "code/alice")
    assert status == 409 and 15 <= int(answer.getheader("Retry-After") or 0) <= 21
    clock.ahead += 30
    assert ask(standin, "GET", "code/alice?wait=5")[1].strip() == standin.code("alice", 1)
    assert ask(standin, "GET", "code/nobody")[0] == 404


def test_a_code_can_be_waited_for(standin: Standin, clock: MovableClock) -> None:
    for _ in range(3):
        authenticate(standin)
    clock.ahead += 19
    status, code, _ = ask(standin, "GET", "code/alice?wait=10")
    assert status == 200
    assert code.strip() == standin.code("alice", 1)


def test_switches(standin: Standin) -> None:
    status, text, _ = ask(standin, "POST", "switches", json.dumps({"throttle": {"calls": 3}}), JSON)
    assert status == 200 and json.loads(text)["on"]["throttle"]["calls"] == 3
    assert json.loads(ask(standin, "GET", "switches")[1])["on"] == standin.switches.as_dict()
    assert ask(standin, "POST", "switches", json.dumps({"all": False}), JSON)[0] == 200
    assert standin.switches.as_dict() == {}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "switches", "not json", JSON, 422),
        ("POST", "switches", '{"unknown": true}', JSON, 422),
        ("POST", "switches", "[]", JSON, 422),
        ("POST", "switches", "{}", {"Content-Type": "text/plain"}, 415),
        ("POST", "switches", "{}", {**JSON, "Origin": "http://elsewhere.example"}, 403),
        ("POST", "nothing", "{}", JSON, 404),
        ("GET", "nothing", None, {}, 404),
        ("DELETE", "switches", None, {}, 405),
    ],
)
def test_faulty_requests(
    standin: Standin, method: str, path: str, body: str | None, headers: dict[str, str], status: int
) -> None:
    assert ask(standin, method, path, body, headers)[0] == status


def test_calls_and_state_tell_no_secret(standin: Standin) -> None:
    keys = authenticate(standin)
    used = standin.code("alice")
    client(standin, "sts", keys).get_caller_identity()
    calls = json.loads(ask(standin, "GET", "calls?action=GetSessionToken")[1])
    assert [(call["action"], call["outcome"]) for call in calls] == [("GetSessionToken", "ok")]
    assert calls[0]["access_key_id"] == standin.users["alice"].access_key_id
    state = json.loads(ask(standin, "GET", "state")[1])
    assert state["users"]["alice"]["mfa_serial"] == "arn:aws:iam::123456789012:mfa/alice"
    assert state["sessions"][0]["mfa"] is True and state["buckets"] == []
    told = json.dumps(calls) + json.dumps(state)
    secrets = [keys["aws_secret_access_key"], keys["aws_session_token"], used]
    secrets += [user.secret_access_key for user in standin.users.values()]
    secrets += [user.mfa_secret for user in standin.users.values()]
    assert [secret for secret in secrets if secret in told] == []


def test_sessions_can_be_ended(standin: Standin) -> None:
    authenticate(standin)
    assert json.loads(ask(standin, "POST", "expire", '{"user": "bob"}', JSON)[1]) == {"expired": 0}
    assert json.loads(ask(standin, "POST", "expire", "", JSON)[1]) == {"expired": 1}


@pytest.mark.parametrize("host", ["standin.example", "127.0.0.1", "bucket.localhost"])
def test_other_host_names_are_refused(standin: Standin, host: str) -> None:
    assert ask(standin, "GET", "code/alice", headers={"Host": host})[0] == 421


def test_the_date_header_shows_the_servers_clock(standin: Standin) -> None:
    standin.switches.set("clock_offset", seconds=86400 * 30)
    before = ask(standin, "GET", "calls")[2].getheader("Date")
    standin.switches.clear()
    after = ask(standin, "GET", "calls")[2].getheader("Date")
    assert str(before)[:16] != str(after)[:16]


def test_a_body_that_breaks_off_is_no_request(standin: Standin) -> None:
    status, _, _ = ask(standin, "POST", "switches", "{}", {**JSON, "Content-Length": "-5"})
    assert status == 400
    assert long_lived(standin)
