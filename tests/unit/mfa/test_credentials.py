"""The temporary credentials keep to themselves."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime

import pytest

from services.mfa.credentials import TemporaryCredentials

EXPIRY = datetime(2030, 1, 1, 12, tzinfo=UTC)
CREDENTIALS = TemporaryCredentials("ASIAEXAMPLE", "the-secret-key", "the-session-token", EXPIRY)


def test_there_and_back() -> None:
    assert TemporaryCredentials.from_json(CREDENTIALS.to_json()) == CREDENTIALS


def test_nothing_is_shown() -> None:
    for text in (repr(CREDENTIALS), str(CREDENTIALS), f"{CREDENTIALS}", f"{[CREDENTIALS]}"):
        assert "ASIA" not in text and "the-secret" not in text and "the-session" not in text


@pytest.mark.parametrize(
    "data",
    [
        b"the-secret-key",
        b'{"access_key_id": "the-secret-key"}',
        b'["the-secret-key"]',
        b"null",
        CREDENTIALS.to_json().replace(b"2030-01-01", b"soon"),
        CREDENTIALS.to_json().replace(b"+00:00", b""),
        CREDENTIALS.to_json().replace(b"the-session-token", b""),
    ],
)
def test_what_is_no_credentials_is_refused_without_showing_it(data: bytes) -> None:
    with pytest.raises(ValueError, match="not temporary credentials") as refusal:
        TemporaryCredentials.from_json(data)
    text = "".join(traceback.format_exception(refusal.value))
    assert refusal.value.__context__ is None
    assert "the-s" not in text.replace("test_credentials", "")


@pytest.mark.parametrize("fields", [("", "b", "c"), ("a", "", "c"), ("a", "b", "")])
def test_every_part_is_needed(fields: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="need"):
        TemporaryCredentials(*fields, EXPIRY)
    with pytest.raises(ValueError, match="time zone"):
        TemporaryCredentials("a", "b", "c", EXPIRY.replace(tzinfo=None))
