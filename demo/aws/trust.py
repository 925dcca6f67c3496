"""Role trust policies: who may assume a role, as far as the stand-in's policies need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def seed_trust_policy(user_arns: Sequence[str]) -> dict[str, Any]:
    """The trust policy of the page "AWS Multi-Factor Authentication", for the given IAM users."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": list(user_arns)},
                "Action": "sts:AssumeRole",
                "Condition": {"Bool": {"aws:MultiFactorAuthPresent": "true"}},
            }
        ],
    }


def allows(policy: dict[str, Any], principal_arns: Sequence[str], mfa: bool | None) -> bool:
    """Whether a trust policy lets a caller with one of these ARNs assume the role.

    `mfa` is the request's `aws:MultiFactorAuthPresent`: None when the key is absent, as it is with long-lived
    keys (IAM user guide, "AWS global condition context keys"). An absent key fails `Bool` and passes
    `BoolIfExists`. Statements with a condition other than these two on that key never match: what is not
    understood is refused.
    """
    return any(_matches(statement, principal_arns, mfa) for statement in policy["Statement"])


def _matches(statement: dict[str, Any], principal_arns: Sequence[str], mfa: bool | None) -> bool:
    named = statement.get("Principal", {}).get("AWS", [])
    named = [named] if isinstance(named, str) else named
    if statement.get("Effect") != "Allow" or statement.get("Action") != "sts:AssumeRole":
        return False
    if not set(named) & set(principal_arns):
        return False
    return all(
        key == "aws:MultiFactorAuthPresent" and _bool(operator, value, mfa)
        for operator, keys in statement.get("Condition", {}).items()
        for key, value in keys.items()
    )


def _bool(operator: str, wanted: str, present: bool | None) -> bool:
    if operator not in ("Bool", "BoolIfExists"):
        return False
    if present is None:
        return operator == "BoolIfExists"
    return present == (str(wanted).lower() == "true")
