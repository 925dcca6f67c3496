"""What every answer carries, and what only those under HTTPS and behind a configured proxy do."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

import config
from blueprints.presentation import asset
from tests.support.app import running_app
from tests.support.client import Client

ADDRESSES = ("/login", "/health", "/nothing", "/static/app.css", "/api/v1/states/a/b")


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_answer_is_walled_in(anonymous: Client, address: str) -> None:
    answer = anonymous.get(address)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert "unsafe" not in policy and "*" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in answer.headers["Permissions-Policy"]
    assert "Strict-Transport-Security" not in answer.headers
    assert address.startswith("/static") or answer.headers["Cache-Control"] == "no-store"
    answer.close()


@pytest.mark.parametrize(
    ("path", "version", "kept"),
    [
        ("log.js", None, True),
        ("log.js", "0123456789", False),
        ("nothing.js", "0123456789", False),
        ("nothing/../log.js", "0123456789", False),
        ("./vendor/../log.js", "", False),
    ],
)
def test_only_the_file_that_an_address_names_is_kept_for_ever(
    app: Flask, anonymous: Client, path: str, version: str | None, kept: bool
) -> None:
    """An older machine asked for a newer file answers with its own, which no browser may keep under that address."""
    with app.test_request_context():
        address = asset(path) if version is None else f"/static/{path}?v={version}"
    answer = anonymous.get(address)
    assert answer.status_code in (200, 404)
    assert ("immutable" in answer.headers["Cache-Control"]) is kept
    answer.close()


def test_under_https_browsers_are_told_to_stay_there_and_cookies_are_secure(anonymous: Client) -> None:
    answer = anonymous.get("/login", base_url="https://localhost")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    cookies = answer.headers.getlist("Set-Cookie")
    assert cookies and all("; Secure" in cookie and "; HttpOnly" in cookie for cookie in cookies)


FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}


def test_without_a_configured_proxy_its_headers_count_for_nothing(anonymous: Client) -> None:
    answer = anonymous.get("/settings/tokens", headers=FORWARDED)
    assert "Strict-Transport-Security" not in answer.headers
    assert "evil.example" not in answer.location


def test_only_named_hosts_are_served_and_only_one_proxy_is_believed(app: Flask, tmp_path: Path) -> None:
    settings = config.load(
        {
            "LOCKSTEP_HOME": str(tmp_path),
            "REDIS_URL": app.config["LOCKSTEP"].redis_url,
            "TRUSTED_HOSTS": "lockstep.example",
            "TRUSTED_PROXIES": "1",
        }
    )
    with running_app(settings) as own:
        client = own.test_client()
        good = {"X-Forwarded-Host": "lockstep.example", "X-Forwarded-Proto": "https"}
        assert client.get("/login", headers=good).status_code == 200
        assert "Strict-Transport-Security" in client.get("/login", headers=good).headers
        assert client.get("/login", headers=good | {"X-Forwarded-Host": "evil.example"}).status_code == 400
        assert client.get("/login", headers={"Host": "evil.example"}).status_code == 400
