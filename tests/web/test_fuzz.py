"""Every route with every kind of nonsense: never a 500, never a traceback, always soon.

What is typed comes from a list of troublemakers and from hypothesis, the names of fields and parameters from the source
itself, so that a new one is fuzzed without being named here.
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict
from werkzeug.routing import Rule

import config
from blueprints import incoming
from models import TokenScope
from policy.lifecycle import RunStatus
from policy.permissions import Role
from services import links, openid, single_sign_on, tokens
from tests import factories
from tests.factories import World
from tests.support.client import Client

FORM = "application/x-www-form-urlencoded"
TOP = Path(__file__).parents[2]
#: Longest time for one request, in seconds, on a busy machine.
SOON = 10
#: Ends the session or the account that is used to fuzz, or is one file after the other.
LEFT_OUT = {"static", "auth.logout", "sign_ins.end", "sign_ins.revoke"}

FIELDS = sorted(
    {
        name
        for path in (TOP / "blueprints").glob("*.py")
        for name in re.findall(
            r"""request\.(?:form|args|files|values)(?:\.get(?:list)?\(|\[)"(\w+)\"""", path.read_text()
        )
    }
    | {
        name
        for path in (TOP / "templates").rglob("*.html")
        for name in re.findall(r'name="([a-z_]+)"', path.read_text())
    }
)

TROUBLE = [
    "", " ", "\0", "a\0b", "\n", "\r\nSet-Cookie: x=1", "0", "-1", "00", "1e309", "NaN", "inf", "9" * 400,
    str(2**31), str(2**63),
    str(2**64), "1.5", "٣", "²", "1_000", "\ud800", "\ufeff", "\u202e", "é" * 3000, "😀", "ß" * 255,
    "x" * 70000, "../../etc/passwd", "/etc/passwd", "//evil.example/", "https://evil.example/", "\\\\evil.example",
    "javascript:alert(1)", "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{7*7}}", "${jndi:x}",
    "%s%n", "%00", "%ff", "' OR 1=1 --", "[]", "{}", "null", "true", "plan-1", "plan-" + "9" * 30, "apply-0",
    "2026-02-30",
    "9999-12-31", "0001-01-01", "a" * 64, "a-" * 40, "on", "yes", "=cmd()", "*/*", "all",
]  # fmt: skip

PARTS = ("", "\0", "9" * 30, str(2**31), "-1", "٣", "\ufeff", "é" * 300, "..%2f", "//evil.example/", "<b>", "plan")

text = st.one_of(st.sampled_from(TROUBLE), st.text(max_size=40))
pairs = st.lists(st.tuples(st.sampled_from(FIELDS), text), max_size=6)
few = settings(
    max_examples=5,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def _rules(app: Flask) -> list[Rule]:
    return [rule for rule in app.url_map.iter_rules() if rule.endpoint not in LEFT_OUT]


def _query(items: list[tuple[str, str]]) -> MultiDict[str, str]:
    return MultiDict((name, value.encode("utf-8", "replace").decode()) for name, value in items)


@pytest.fixture
def furnished(app: Flask, world: World) -> dict[str, Any]:
    """Values that lead somewhere, for the parts of addresses."""
    with app.app_context():
        network = factories.environment()
        factories.state(factories.run(network, RunStatus.APPLIED), serial=1)
        run = factories.run(network, RunStatus.AWAITING_CONFIRMATION)
        factories.variable("some_tag", "network", of=network)
        token = tokens.create(factories.person("alice"), "fuzz", TokenScope.QUEUE, None)[1]
        return {
            "organization": world.organization, "environment": world.environment, "number": run.number, "kind": "plan",
            "panel": "environment", "token": "x", "secret": token,
        }  # fmt: skip


def _address(app: Flask, rule: Rule, known: dict[str, Any]) -> str:
    with app.test_request_context():
        values = {name: known.get(name, 1 if "int" in str(rule._converters[name]) else "x") for name in rule.arguments}
        if "any" in rule.rule and "kind" in values:
            values["kind"] = re.findall(r"any\(([^)]*)\)", rule.rule)[0].split(",")[0].strip()
        built = rule.build(values)
    assert built is not None, rule
    return built[1]


def _fine(answer: Any, began: float, what: str) -> None:
    body = answer.get_data()
    answer.close()
    assert answer.status_code < 500, f"{what}: {answer.status_code}"
    assert b"Traceback (most" not in body, what
    assert time.monotonic() - began < SOON, f"{what} took {time.monotonic() - began:.0f} s"
    if answer.status_code in (301, 302, 303, 307, 308):
        # Where two slashes were one too many, werkzeug names the whole address of this site.
        here = answer.location.removeprefix("http://localhost")
        assert re.match(r"/(?![/\\])", here), f"{what} leads to {answer.location!r}"


@pytest.fixture
def owner(alice: Client) -> Client:
    return alice


def test_no_query_string_breaks_a_page(app: Flask, owner: Client, furnished: dict[str, Any]) -> None:
    for rule in [rule for rule in _rules(app) if "GET" in (rule.methods or ())]:
        address = _address(app, rule, furnished)

        @few
        @given(address=st.just(address), asked=pairs)
        def ask(address: str, asked: list[tuple[str, str]]) -> None:
            began = time.monotonic()
            _fine(owner.get(address, query_string=_query(asked)), began, f"GET {address} {asked!r}")

        ask()


def test_every_trouble_in_every_parameter_that_a_page_reads(
    app: Flask, owner: Client, furnished: dict[str, Any]
) -> None:
    """All names at once with one value: the cheapest way to meet each pair."""
    for rule in [rule for rule in _rules(app) if "GET" in (rule.methods or ())]:
        address = _address(app, rule, furnished)
        for trouble in ("\0", "9" * 30, "-1", "٣", "\ufeff<b>"):
            began = time.monotonic()
            asked = _query([(name, trouble) for name in FIELDS for _ in range(2)])
            _fine(owner.get(address, query_string=asked), began, f"GET {address} {trouble!r}")


def test_no_part_of_an_address_breaks_anything(app: Flask, owner: Client, furnished: dict[str, Any]) -> None:
    for rule in [rule for rule in _rules(app) if rule.arguments]:
        for name in sorted(rule.arguments):
            for strange in PARTS:
                try:
                    address = _address(app, rule, furnished | {name: strange})
                except (AssertionError, ValueError, UnicodeEncodeError):
                    continue
                began = time.monotonic()
                _fine(owner.get(address), began, f"GET {address!r}")


def test_no_form_breaks_anything(app: Flask, owner: Client, furnished: dict[str, Any]) -> None:
    token = owner.token()
    for rule in [rule for rule in _rules(app) if "POST" in (rule.methods or ()) and "api" not in rule.rule]:
        address = _address(app, rule, furnished)

        @few
        @given(address=st.just(address), typed=pairs)
        def send(address: str, typed: list[tuple[str, str]]) -> None:
            began = time.monotonic()
            form = _query([("csrf_token", token), *typed])
            _fine(owner.post(address, data=form), began, f"POST {address} {typed!r}")

        send()


def test_every_trouble_in_every_field(app: Flask, owner: Client, furnished: dict[str, Any]) -> None:
    token = owner.token()
    for rule in [rule for rule in _rules(app) if "POST" in (rule.methods or ()) and "api" not in rule.rule]:
        address = _address(app, rule, furnished)
        for trouble in ("\0", "9" * 30, "x" * 5000, "\ufeff<b>", "é" * 300):
            began = time.monotonic()
            typed = _query([("csrf_token", token), *((name, trouble) for name in FIELDS if name != "csrf_token")])
            _fine(owner.post(address, data=typed), began, f"POST {address} {trouble[:20]!r}")


BODIES: list[tuple[str, bytes]] = [
    ("application/json", b'{"csrf_token": [1], "name": {"a": null}}'),
    ("application/json", b"[" * 5000),
    ("application/x-www-form-urlencoded", b"%ff=%ff&=&&&a=%00&%zz=1;b=2"),
    ("application/x-www-form-urlencoded; charset=utf-7", b"a=+ADw-"),
    ("multipart/form-data", b"no boundary"),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--"),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"\0\"\r\n\r\n"),
    ("multipart/form-data; boundary=", b"----"),
    ("text/plain; charset=\xff", b"\xff\xfe"),
    ("", b"a=b"),
    ("a/b;" + "c" * 500, b""),
]  # fmt: skip


# werkzeug's parser leaves the file of a part that is cut short to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_kind_of_body_breaks_anything(app: Flask, owner: Client, furnished: dict[str, Any]) -> None:
    token = owner.token()
    for rule in [rule for rule in _rules(app) if "POST" in (rule.methods or ())]:
        address = _address(app, rule, furnished)
        for kind, body in BODIES:
            for headers in ({}, {"X-CSRFToken": token, "HX-Request": "true", "HX-Current-URL": "http://[::1"}):
                began = time.monotonic()
                answer = owner.post(address, data=body, content_type=kind, headers=headers)
                _fine(answer, began, f"POST {address} {kind!r} {headers}")


def test_no_file_breaks_anything(app: Flask, owner: Client, furnished: dict[str, Any]) -> None:
    token = owner.token()
    for rule in [rule for rule in _rules(app) if rule.endpoint in ("runs.upload", "states.upload")]:
        address = _address(app, rule, furnished)
        for name in ("\0", "../x.zip", "é" * 400, "<b>.tar.gz", ".", "a\r\nb"):
            for content in (b"", b"\0", b"\x1f\x8b\x08", b"PK\x05\x06", b"{}", b'{"version": 4}', b"[" * 100000):
                file = {field: (io.BytesIO(content), name) for field in ("archive", "state")}
                more = {"csrf_token": token, "message": "\0<b>", "seen": "x", "name": "network", "force": "yes"}
                began = time.monotonic()
                _fine(owner.post(address, data={**file, **more}), began, f"POST {address} {name!r} {content[:9]!r}")


STATES = [
    b"", b"null", b"[]", b"1", b'"x"', b"{}", b"[" * 100000, b"\xff", b'{"version": 4}', b'{"ID": 5}',
    b'{"ID": "\\u0000"}',
    json.dumps({"version": 4, "serial": 2**70, "lineage": "x", "resources": []}).encode(),
    json.dumps({"version": 4, "serial": -1, "lineage": ["x"], "resources": {}}).encode(),
    json.dumps({"version": 4, "serial": 5, "lineage": "\0", "resources": [None, 1, {"instances": 7}]}).encode(),
    json.dumps({"version": 4, "serial": 5, "lineage": "\ud800", "terraform_version": {}, "resources": [{}]}).encode(),
    b'{"version": 4, "serial": 1e400, "lineage": "x", "resources": []}',
    json.dumps({"ID": "x" * 9000, "Operation": [], "Info": {}, "Who": 5, "Created": "\0"}).encode(),
    json.dumps({"ID": "halves", "Operation": "a\ud800", "Info": "\0", "Who": "al@\udfff" * 60}).encode(),
]  # fmt: skip


def test_no_state_or_lock_of_a_terminal_breaks_anything(
    app: Flask, anonymous: Client, furnished: dict[str, Any]
) -> None:
    rule = next(rule for rule in app.url_map.iter_rules() if rule.endpoint == "api_states.read")
    address = _address(app, rule, furnished)
    for method in ("POST", "LOCK", "UNLOCK", "GET"):
        for body in STATES:
            for query in ("", "?ID=%00", "?ID=" + "x" * 999):
                began = time.monotonic()
                answer = anonymous.open(address + query, method=method, data=body, auth=("alice", furnished["secret"]))
                _fine(answer, began, f"{method} {address}{query} {body[:60]!r}")


def test_no_lock_of_a_terminal_breaks_a_page_that_shows_it(
    app: Flask, owner: Client, furnished: dict[str, Any], world: World
) -> None:
    with app.app_context():
        factories.environment(active_run_id=None)
    address, auth = f"/api/v1/states/{world.organization}/{world.environment}", ("alice", furnished["secret"])
    terminal = app.test_client()
    pages = [f"{world.path}/states", f"{world.path}/settings"]
    pages += [f"{world.home}/{page}" for page in ("audit", "audit?who=alice", "audit.csv", "audit.jsonl")]
    taken = 0
    for body in STATES:
        if terminal.open(address, method="LOCK", data=body, auth=auth).status_code == 200:
            taken += 1
            for page in pages:
                answer = owner.get(page)
                assert answer.get_data() and answer.status_code == 200, (page, body[:60])
            assert terminal.open(address, method="UNLOCK", auth=auth).status_code == 200
    assert taken >= 2


def test_nothing_that_a_script_sends_breaks_anything(app: Flask, furnished: dict[str, Any]) -> None:
    # A client that is nobody's: the token alone lets in.
    auth = ("alice", furnished["secret"])
    messages = [json.dumps({"message": trouble}).encode() for trouble in TROUBLE]
    for rule in [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/v1/runs")]:
        address = _address(app, rule, furnished)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            sent = [*BODIES, *(("application/json", body) for body in [*STATES, *messages])]
            sent += [
                ("application/x-www-form-urlencoded", b"message=" + quote(t, errors="replace").encode())
                for t in TROUBLE[:24]
            ]
            for kind, body in sent:
                began = time.monotonic()
                answer = app.test_client().open(address, method=method, data=body, content_type=kind, auth=auth)
                _fine(answer, began, f"{method} {address} {kind!r} {body[:60]!r}")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic " + "=" * 50},
        {"Authorization": "Basic /w=="},
        {"Authorization": "Bearer lsp_\x00"},
        {"Authorization": "Digest username=x"},
        {"Cookie": "lockstep=" + "." * 500},
        {"Cookie": "lockstep=eyJfdXNlcl9pZCI6WzFdfQ.x.y; lockstep_remember=\xff|x"},
        {"Range": "bytes=-9999999999999999999999"},
        {"If-None-Match": '"', "If-Modified-Since": "x"},
        {"HX-Request": "true", "HX-Boosted": "x", "HX-Current-URL": "http://["},
        {"Content-Length": "x"},
        {"Host": "a b"},
        {"Accept-Language": ";" * 999},
        {"X-Forwarded-For": "\x7f" * 99, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "javascript"},
    ],
    ids=lambda headers: " ".join(headers),
)
def test_no_header_breaks_anything(
    app: Flask, anonymous: Client, furnished: dict[str, Any], headers: dict[str, str]
) -> None:
    for rule in _rules(app):
        address = _address(app, rule, furnished)
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            began = time.monotonic()
            _fine(anonymous.open(address, method=method, headers=headers), began, f"{method} {address} {headers}")


def test_an_anonymous_body_is_refused_before_it_is_read(anonymous: Client, world: World) -> None:
    for path in ("/login", f"{world.path}/states/upload", "/setup/x", f"{world.home}/environments/new"):
        answer = anonymous.post(path, data=b"x=" + b"y" * (incoming.STRANGERS + 1), content_type=FORM)
        assert answer.status_code == 413, path
        small = anonymous.post(path, data=b"x=" + b"y" * (incoming.STRANGERS // 2), content_type=FORM)
        # Read, and the form token was looked for; where only members have forms, without one leads to sign in.
        assert small.status_code == (302 if path.startswith(world.home) else 400), path


@pytest.mark.parametrize("given", ["Basic eDp4", "Bearer x", "", "x"])
def test_no_authorization_makes_room_for_a_strangers_body(anonymous: Client, world: World, given: str) -> None:
    """Only a good token does, for the state that it writes."""
    body, headers = b"x=" + b"y" * (incoming.STRANGERS + 1), {"Authorization": given}
    for path in ("/login", f"{world.path}/states/upload", "/link", f"{world.home}/environments/new"):
        assert anonymous.post(path, data=body, content_type=FORM, headers=headers).status_code == 413, path


def test_the_body_that_comes_with_a_bad_token_is_not_read(anonymous: Client, world: World) -> None:
    class Unread(io.RawIOBase):
        def readinto(self, _buffer: Any) -> int:
            raise AssertionError("the body was read")

    path = f"/api/v1/states/{world.organization}/{world.environment}"
    environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": str(1 << 20)}
    answer = anonymous.post(path, environ_overrides=environ, auth=("alice", "x"))
    assert answer.status_code == 401


class TestWithSingleSignOnAndMail:
    """The ways in that an installation has only when it names a provider and a mail server; neither answers here."""

    ISSUER = "http://127.0.0.1:9"
    WAYS_IN = ("auth", "links", "oidc", "second_factor", "sign_ins")

    @pytest.fixture
    def settings(
        self, tmp_path: Path, redis_url: str, database: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> config.Config:
        monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
        there = {name: f"{self.ISSUER}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
        monkeypatch.setitem(openid._known, self.ISSUER, (time.monotonic(), there))
        return config.load(
            {
                "LOCKSTEP_HOME": str(tmp_path / "home"),
                "REDIS_URL": redis_url,
                "PUBLIC_URL": "http://localhost",
                "OIDC_ISSUER": self.ISSUER,
                "OIDC_CLIENT_ID": "lockstep",
                "OIDC_CLIENT_SECRET": "hush-hush",
                "SMTP_URL": "smtp://127.0.0.1:9",
                "MAIL_FROM": "lockstep@example.com",
                **database,
            }
        )

    @pytest.fixture
    def secret(self, app: Flask, world: World) -> str:
        """Of an invitation that waits."""
        with app.app_context():
            return links.invite(factories.member("alice"), Role.MEMBER, "")

    def begun(self, client: Client, purpose: str, **more: Any) -> None:
        """Let the browser have a way to the provider under way."""
        with client.session_transaction() as session:
            kept = {"state": "s", "nonce": "n", "verifier": "v", "purpose": purpose, "onward": "/", "user": 1}
            session["journey"] = {**kept, "at": int(time.time())}
            session.update(more)

    @pytest.mark.parametrize("purpose", ["sign-in", "connect", "prove"])
    @pytest.mark.parametrize("vouched", [False, True], ids=["refused", "vouched"])
    def test_no_answer_of_the_provider_breaks_anything(
        self, alice: Client, anonymous: Client, secret: str, purpose: str, vouched: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        if vouched:
            known = single_sign_on.Identity(self.ISSUER, "\0<b>é", "\ufeff" * 64, "x" * 254)
            monkeypatch.setattr(single_sign_on, "finish", lambda *_, **__: known)
        for client in (alice, anonymous):
            for asked in [
                *([("state", trouble), ("code", "c")] for trouble in ("é", *TROUBLE)),
                *([("state", "s"), ("code", trouble)] for trouble in TROUBLE),
                [("state", "s")], [("code", "c")], [("state", "s"), ("state", "é"), ("code", "c"), ("error", "\0")],
            ]:  # fmt: skip
                self.begun(client, purpose, link=secret)
                began = time.monotonic()
                answer = client.get("/login/single-sign-on/back", query_string=_query(asked))
                _fine(answer, began, f"{purpose} {asked!r:.200}")
        assert anonymous.get("/settings/sessions").status_code == 302

    @pytest.mark.parametrize("who", ["alice", "anonymous"])
    def test_no_way_in_is_broken_by_what_is_sent(
        self, app: Flask, furnished: dict[str, Any], secret: str, who: str, request: pytest.FixtureRequest
    ) -> None:
        client: Client = request.getfixturevalue(who)
        token = client.token()
        for rule in [rule for rule in _rules(app) if rule.endpoint.partition(".")[0] in self.WAYS_IN]:
            address = _address(app, rule, furnished)
            for trouble in ("\0", "9" * 30, "x" * 5000, "\ufeff<b>", "é", "alice", "alice@example.com", "sign-in"):
                for method in sorted({"GET", "POST"} & (rule.methods or set())):
                    self.begun(client, "sign-in", link=secret)
                    sent = _query([(name, trouble) for name in FIELDS if name not in ("csrf_token", "for")])
                    began = time.monotonic()
                    if method == "GET":
                        answer = client.get(address, query_string=sent)
                    else:
                        answer = client.post(address, data=MultiDict([*sent.items(), ("csrf_token", token)]))
                    if rule.endpoint == "oidc.go" and answer.status_code == 303:
                        assert answer.location.startswith(f"{self.ISSUER}/authorization_endpoint?")
                        continue
                    _fine(answer, began, f"{method} {address} {trouble[:20]!r}")
                for thread in threading.enumerate():
                    if thread.name == "forgotten":  # a mail that cannot be sent
                        thread.join(SOON)
