"""Single sign-on against a real provider: nobody gets in by an e-mail address, and no answer counts twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey
from sqlalchemy import select

import config
from extensions import db
from models import AuditEvent, SignIn, User
from policy.permissions import Role
from services import clock, links, openid, single_sign_on
from services.errors import Conflict
from tests import factories
from tests.factories import PASSWORD
from tests.support import oidc_provider
from tests.support.authenticator import code, enrol
from tests.support.client import Client
from tests.support.oidc_provider import Provider

pytestmark = pytest.mark.usefixtures("world")

GO = "/login/single-sign-on"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with oidc_provider.running() as found:
        yield found


@pytest.fixture
def passwords() -> str:
    return "on"


@pytest.fixture
def settings(
    tmp_path: Path, redis_url: str, database: dict[str, str], provider: Provider, passwords: str,
    monkeypatch: pytest.MonkeyPatch,
) -> config.Config:  # fmt: skip
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")  # the provider is on this machine
    return config.load(
        {
            "LOCKSTEP_HOME": str(tmp_path / "home"),
            "REDIS_URL": redis_url,
            "PUBLIC_URL": "http://localhost",
            "OIDC_ISSUER": provider.issuer,
            "OIDC_CLIENT_ID": "lockstep",
            "OIDC_CLIENT_SECRET": "hush-hush",
            "OIDC_NAME": "Example ID",
            "PASSWORD_SIGN_IN": passwords,
            **database,
        }
    )


def there_and_back(client: Client, provider: Provider, subject: str, **query: str) -> Any:
    """What Lockstep answers in the end."""
    away = client.get(GO, query_string=query)
    assert away.status_code == 303, away.get_data(as_text=True)
    return client.get(provider.agree(away.location, subject))


def connect(app: Flask, name: str, subject: str, issuer: str) -> None:
    with app.app_context():
        single_sign_on.connect(factories.person(name), single_sign_on.Identity(issuer, subject, "", ""))


def actions(app: Flask) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(AuditEvent.action).order_by(AuditEvent.id)))


def test_the_way_there_has_state_nonce_and_pkce_and_no_secret(anonymous: Client) -> None:
    assert "Sign in with Example ID" in anonymous.get("/login").get_data(as_text=True)
    first, second = (parse_qs(urlsplit(anonymous.get(GO).location).query) for _ in range(2))
    assert first["code_challenge_method"] == ["S256"] and first["response_type"] == ["code"]
    assert first["redirect_uri"] == ["http://localhost/login/single-sign-on/back"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 30 and first[name] != second[name]
    assert "hush" not in str(first)


def test_a_connected_person_signs_in_and_goes_on(app: Flask, anonymous: Client, provider: Provider) -> None:
    connect(app, "alice", "a-1", provider.issuer)
    answer = there_and_back(anonymous, provider, "a-1", next="/settings/sessions")
    assert (answer.status_code, answer.location) == (303, "/settings/sessions")
    assert anonymous.get("/settings/sessions").status_code == 200
    assert "session.sign_in" in actions(app)


def test_the_same_e_mail_address_opens_nothing(app: Flask, anonymous: Client, provider: Provider) -> None:
    provider.tell("stranger", email="alice@example.com", email_verified=True, preferred_username="alice")
    answer = there_and_back(anonymous, provider, "stranger")
    assert answer.status_code == 403 and "No account here is connected" in answer.get_data(as_text=True)
    assert anonymous.get("/settings/sessions").status_code == 302


def test_somebody_connects_their_account_from_their_own_settings(
    app: Flask, alice: Client, anonymous: Client, provider: Provider
) -> None:
    assert there_and_back(alice, provider, "a-1", **{"for": "connect"}).location == "/settings/single-sign-on"
    assert provider.issuer in alice.get("/settings/single-sign-on").get_data(as_text=True)
    assert there_and_back(anonymous, provider, "a-1").status_code == 303
    assert alice.submit("/settings/single-sign-on/disconnect").status_code == 303
    anonymous.submit("/logout")
    assert there_and_back(anonymous, provider, "a-1").status_code == 403
    assert {"single_sign_on.connect", "single_sign_on.disconnect"} <= set(actions(app))


def test_one_identity_has_one_account(app: Flask, bob: Client, provider: Provider) -> None:
    connect(app, "alice", "a-1", provider.issuer)
    assert there_and_back(bob, provider, "a-1", **{"for": "connect"}).status_code == 409
    connect(app, "bob", "b-1", provider.issuer)
    assert there_and_back(bob, provider, "b-2", **{"for": "connect"}).status_code == 409


def test_an_old_session_connects_nothing(app: Flask, alice: Client) -> None:
    with app.app_context():
        row = db.session.scalars(select(SignIn)).one()
        row.proved_at = clock.now() - timedelta(minutes=16)
        db.session.commit()
    assert alice.get(f"{GO}?for=connect").location.startswith("/settings/sessions/prove")


def test_a_new_person_takes_an_invitation_with_it(app: Flask, anonymous: Client, provider: Provider) -> None:
    provider.tell("d-1", email="dora@example.com", preferred_username="Dora")
    with app.app_context():
        secret = links.invite(factories.member("alice"), Role.MEMBER, "")
    anonymous.get(f"/link/{secret}")
    assert "Join with Example ID" in anonymous.get("/link").get_data(as_text=True)
    assert there_and_back(anonymous, provider, "d-1", next="/link").location == "/link"
    page = anonymous.get("/link").get_data(as_text=True)
    assert 'value="dora"' in page and 'type="password"' not in page
    assert anonymous.submit("/link", {"name": "dora", "email": "dora@example.com"}).location == "/terraform/acme"
    with app.app_context():
        dora = factories.person("dora")
        assert (dora.oidc_subject, dora.password_hash) == ("d-1", "")
    anonymous.submit("/logout")
    for password in ("", PASSWORD):
        assert anonymous.submit("/login", {"username": "dora", "password": password}).status_code == 422
    assert there_and_back(anonymous, provider, "d-1").status_code == 303


def test_the_local_second_factor_is_asked_all_the_same(app: Flask, anonymous: Client, provider: Provider) -> None:
    device, _ = enrol(app, "alice")
    connect(app, "alice", "a-1", provider.issuer)
    assert there_and_back(anonymous, provider, "a-1").location == "/login/code"
    assert anonymous.submit("/login/code", {"code": code(device)}).status_code == 303


def test_an_answer_belongs_to_one_browser_and_counts_once(app: Flask, anonymous: Client, provider: Provider) -> None:
    connect(app, "alice", "a-1", provider.issuer)
    other = app.test_client()
    back = provider.agree(anonymous.get(GO).location, "a-1")
    assert other.get(back).status_code == 403  # somebody else's answer, slipped in
    other.get(GO)
    assert other.get(back).status_code == 403
    assert anonymous.get(back.replace("state=", "state=x")).status_code == 403
    assert anonymous.get(back).status_code == 403  # used up by the try before
    back = provider.agree(anonymous.get(GO).location, "a-1")
    assert anonymous.get(back).status_code == 303
    anonymous.submit("/logout")
    assert anonymous.get(back).status_code == 403


def test_who_says_no_there_is_told_so(anonymous: Client, provider: Provider) -> None:
    denied = provider.deny(anonymous.get(GO).location)
    answer = anonymous.get(denied)
    assert answer.status_code == 403, denied
    assert "Nobody was signed in." in answer.get_data(as_text=True), answer.get_data(as_text=True) + denied


def test_a_code_that_is_made_up_is_refused(anonymous: Client) -> None:
    state = parse_qs(urlsplit(anonymous.get(GO).location).query)["state"][0]
    assert anonymous.get(f"{GO}/back?state={state}&code=made-up").status_code == 403


def test_the_proof_before_administration_asks_the_provider_anew(app: Flask, alice: Client, provider: Provider) -> None:
    connect(app, "alice", "a-1", provider.issuer)
    with app.app_context():
        db.session.scalars(select(SignIn)).one().proved_at = clock.now() - timedelta(minutes=16)
        db.session.commit()
    query = {"for": "prove", "next": "/settings/tokens"}
    away = parse_qs(urlsplit(alice.get(GO, query_string=query).location).query)
    assert (away["prompt"], away["max_age"]) == (["login"], ["0"])
    provider.tell("a-1", auth_time=int(time.time()) - 3600)
    assert there_and_back(alice, provider, "a-1", **query).status_code == 403
    provider.tell("b-1", auth_time=int(time.time()))
    assert there_and_back(alice, provider, "b-1", **query).status_code == 403
    assert alice.get("/settings/tokens").status_code == 303
    provider.tell("a-1", auth_time=int(time.time()))
    assert there_and_back(alice, provider, "a-1", **query).location == "/settings/tokens"
    assert alice.get("/settings/tokens").status_code == 200


class TestWithoutPasswords:
    """PASSWORD_SIGN_IN=off."""

    @pytest.fixture
    def passwords(self) -> str:
        return "off"

    def test_the_password_form_is_gone_and_its_post_refused(self, anonymous: Client) -> None:
        page = anonymous.get("/login").get_data(as_text=True)
        assert "Sign in with Example ID" in page and 'name="password"' not in page
        answer = anonymous.submit("/login", {"username": "alice", "password": PASSWORD})
        assert answer.status_code == 403 and anonymous.get("/settings/sessions").status_code == 302
        assert anonymous.get("/login/forgot").status_code == 404

    def test_single_sign_on_goes_on(self, app: Flask, anonymous: Client, provider: Provider) -> None:
        connect(app, "alice", "a-1", provider.issuer)
        assert there_and_back(anonymous, provider, "a-1").status_code == 303
        assert anonymous.get("/settings/password").status_code == 404
        assert anonymous.submit("/settings/single-sign-on/disconnect").status_code == 409
        assert anonymous.submit("/settings/sessions/prove", {"password": PASSWORD}).status_code == 403

    def test_no_link_leads_to_a_password(self, app: Flask) -> None:
        with app.app_context(), pytest.raises(Conflict):
            links.reset_for(factories.member("alice"), "bob")


# -- what the provider says --------------------------------------------------------------------------------------------

KEY = ECKey.generate_key("P-256", {"kid": "one"})


def checked(app: Flask, key: Any = KEY, alg: str = "ES256", **changes: Any) -> single_sign_on.Identity:
    now, there = int(time.time()), app.config["LOCKSTEP"].provider
    claims = {"iss": there.issuer, "aud": "lockstep", "sub": "a-1", "nonce": "n", "iat": now, "exp": now + 60}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    text = jwt.encode({"alg": alg, "kid": "one"}, claims, key, algorithms=[alg])
    with app.app_context():
        return openid._checked(text, KeySet([KEY]), "n", again=False)


def test_a_good_word_counts(app: Flask) -> None:
    assert checked(app).subject == "a-1"
    assert checked(app, aud=["lockstep", "other"], azp="lockstep").subject == "a-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"aud": "other"}, {"aud": ["lockstep", "other"]}, {"azp": "other"},
        {"exp": 1_000_000_000}, {"exp": None}, {"nonce": "another"}, {"nonce": None}, {"sub": None}, {"sub": ""},
        {"sub": 7}, {"iat": None}, {"sub": "x" * 256},
        {"key": ECKey.generate_key("P-256", {"kid": "one"})},
        {"key": OctKey.import_key("hush-hush-hush-hush-hush-hush-hush", {"kid": "one"}), "alg": "HS256"},
    ],
)  # fmt: skip
def test_any_other_word_counts_for_nothing(app: Flask, changes: dict[str, Any]) -> None:
    with pytest.raises(Exception) as refused:  # noqa: PT011  (finish() makes one sentence of all)
        checked(app, **changes)
    assert isinstance(refused.value, openid._REFUSALS)


def test_accounts_without_single_sign_on_share_no_row(app: Flask) -> None:
    with app.app_context():
        assert db.session.query(User).filter(User.oidc_subject.is_(None)).count() == 3
