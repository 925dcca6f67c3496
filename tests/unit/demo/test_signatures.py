"""Signatures are verified by recomputing them: nothing that was changed on the way passes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from demo.aws.server import Standin
from tests.unit.demo.conftest import long_lived
from tests.unit.demo.raw import Raw, signed

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
WHO = b"Action=GetCallerIdentity&Version=2011-06-15"


def call(standin: Standin, body: bytes = WHO, headers: dict[str, str] | None = None) -> Raw:
    """A signed STS call."""
    return signed(
        standin,
        long_lived(standin),
        "POST",
        "/",
        service="sts",
        body=body,
        headers={**FORM, **(headers or {})},
    )


def change_header(name: str, pattern: str, replacement: str) -> Callable[[Raw], None]:
    """A tampering that rewrites one header."""

    def tamper(raw: Raw) -> None:
        raw.headers[name] = re.sub(pattern, replacement, raw.headers[name])

    return tamper


def change_body(raw: Raw) -> None:
    raw.body = WHO.replace(b"GetCallerIdentity", b"GetSessionToken")


def change_query(raw: Raw) -> None:
    raw.path = "/?Action=GetSessionToken"


def change_method(raw: Raw) -> None:
    raw.method = "PUT"


def add_unsigned_amz_header(raw: Raw) -> None:
    raw.headers["X-Amz-Something"] = "new"


def drop_authorization(raw: Raw) -> None:
    del raw.headers["Authorization"]


def test_an_untouched_call_passes(standin: Standin) -> None:
    status, answer = call(standin).send(standin)
    assert status == 200 and "<Arn>arn:aws:iam::123456789012:user/alice</Arn>" in answer


def test_other_headers_may_be_signed_too(standin: Standin) -> None:
    assert call(standin, headers={"Accept-Encoding": "identity", "X-Extra": "a   b"}).send(standin)[0] == 200


@pytest.mark.parametrize(
    ("tamper", "status", "code"),
    [
        (change_body, 403, "SignatureDoesNotMatch"),
        (change_query, 403, "SignatureDoesNotMatch"),
        (change_method, 403, "SignatureDoesNotMatch"),
        (add_unsigned_amz_header, 403, "SignatureDoesNotMatch"),
        (change_header("Authorization", "Signature=.", "Signature=x"), 403, "SignatureDoesNotMatch"),
        (change_header("Authorization", "eu-west-1", "eu-west-2"), 403, "SignatureDoesNotMatch"),
        (change_header("Authorization", "host;", ""), 403, "SignatureDoesNotMatch"),
        (change_header("X-Amz-Date", r"\d$|\dZ", "xZ"), 400, "IncompleteSignature"),
        (change_header("X-Amz-Date", r"^\d{8}", "20200101"), 403, "SignatureDoesNotMatch"),
        (change_header("Authorization", "Credential=", "Creds="), 400, "IncompleteSignature"),
        (change_header("Authorization", "/aws4_request", ""), 400, "IncompleteSignature"),
        (change_header("Authorization", "AWS4-HMAC-SHA256", "Basic"), 400, "IncompleteSignature"),
        (drop_authorization, 403, "MissingAuthenticationToken"),
    ],
)
def test_a_changed_call_is_refused(standin: Standin, tamper: Callable[[Raw], None], status: int, code: str) -> None:
    raw = call(standin)
    tamper(raw)
    got, answer = raw.send(standin)
    assert got == status and f"<Code>{code}</Code>" in answer
    assert '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">' in answer


def test_a_declared_hash_must_be_the_bodys(standin: Standin) -> None:
    raw = call(standin, headers={"x-amz-content-sha256": "0" * 64})
    assert raw.send(standin)[0] == 403
    assert call(standin, headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}).send(standin)[0] == 403


def test_unknown_actions_and_versions(standin: Standin) -> None:
    for body in (b"Action=Invent&Version=2011-06-15", b"Action=GetCallerIdentity&Version=1999-01-01"):
        status, answer = call(standin, body).send(standin)
        assert status == 400 and "<Code>InvalidAction</Code>" in answer


def test_a_chunked_transfer_is_read(standin: Standin) -> None:
    raw = call(standin)
    raw.headers["Transfer-Encoding"] = "chunked"
    assert raw.send(standin, chunks=[WHO[:10], WHO[10:]])[0] == 200
