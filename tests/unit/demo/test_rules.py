"""The pure parts: codes and trust policies."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from demo.aws import totp
from demo.aws.trust import allows, seed_trust_policy

RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()
ALICE = "arn:aws:iam::123456789012:user/alice"
MALLORY = "arn:aws:iam::123456789012:user/mallory"


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_codes_are_those_of_rfc_6238_appendix_b(seconds: int, code: str) -> None:
    assert totp.code(RFC_SECRET, totp.step_at(seconds)) == code


@pytest.mark.parametrize(("offset", "accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_one_step_on_either_side_is_accepted(offset: int, accepted: bool) -> None:
    now = 1_700_000_000.0
    typed = totp.code(RFC_SECRET, totp.step_at(now) + offset)
    assert bool(totp.matching_steps(RFC_SECRET, typed, now)) is accepted


def test_full_width_digits_match_nothing() -> None:
    wide = totp.code(RFC_SECRET, 1).translate(str.maketrans("0123456789", "０１２３４５６７８９"))
    assert totp.matching_steps(RFC_SECRET, wide, 30.0) == []


def policy(operator: str = "Bool", value: str = "true", **changes: Any) -> dict[str, Any]:
    """The seed's policy for alice, with changes."""
    made = seed_trust_policy([ALICE])
    made["Statement"][0].update({"Condition": {operator: {"aws:MultiFactorAuthPresent": value}}, **changes})
    return made


@pytest.mark.parametrize(
    ("trust", "caller", "mfa", "allowed"),
    [
        (policy(), ALICE, True, True),
        (policy(), ALICE, False, False),
        (policy(), ALICE, None, False),
        (policy(), MALLORY, True, False),
        (policy("BoolIfExists"), ALICE, None, True),
        (policy("BoolIfExists"), ALICE, False, False),
        (policy(value="false"), ALICE, False, True),
        (policy("StringEquals"), ALICE, True, False),
        (policy(Condition={}), ALICE, None, True),
        (policy(Principal={"AWS": ALICE}), ALICE, True, True),
        (policy(Action="sts:TagSession"), ALICE, True, False),
        (policy(Effect="Deny"), ALICE, True, False),
        (policy(Condition={"Bool": {"aws:SecureTransport": "true"}}), ALICE, True, False),
    ],
)
def test_trust_policies(trust: dict[str, Any], caller: str, mfa: bool | None, allowed: bool) -> None:
    assert allows(trust, [caller], mfa) is allowed
