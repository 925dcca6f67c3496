"""Each row of the table of STS answers, with the codes and words that AWS sends."""

from __future__ import annotations

import pytest

from policy import run_errors
from policy.sts_answers import classify

ROWS = [
    ("AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code. ", "code_refused"),
    ("AccessDenied", "MultiFactorAuthentication failed, unable to validate MFA code.  Please verify your MFA serial "
     "number is valid and associated with this user.", "serial_wrong"),
    ("ValidationError", "1 validation error detected: Value '12' at 'tokenCode' failed", "not_six_digits"),
    ("ValidationError", "1 validation error detected: Value 'x' at 'serialNumber' failed", "serial_wrong"),
    ("InvalidClientTokenId", "The security token included in the request is invalid.", "keys_unknown"),
    ("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.",
     "secret_wrong"),
    ("SignatureDoesNotMatch", "Signature expired: 20260312T141132Z is now earlier than …", "clock_wrong"),
    ("SignatureDoesNotMatch", "Signature not yet current: 20260312T141132Z is still later than …", "clock_wrong"),
    ("RequestExpired", "Request has expired.", "clock_wrong"),
    ("RequestTimeTooSkewed", "", "clock_wrong"),
    ("AccessDenied", "Cannot call GetSessionToken with session credentials", "temporary_keys"),
    ("AccessDenied", "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: sts:GetSessionToken "
     "with an explicit deny", "denied"),
    ("RegionDisabledException", "STS is not activated in this region", "region_off"),
    ("Throttling", "Rate exceeded", "throttled"),
    ("InternalFailure", "", "no_answer"),
    ("SomethingNew", "", "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message", "reason"), ROWS)
def test_each_row(code: str, message: str, reason: str) -> None:
    answer = classify(code, message)
    assert answer.reason == reason
    assert answer.title.endswith(".") and answer.advice.endswith(".")


def test_a_server_error_of_any_name_is_no_answer() -> None:
    assert classify("Whatever", "", 503).reason == "no_answer"


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("╷\n│ Error: Saved plan is stale\n│", "stale_plan"),
        ("│ \x1b[31mError: \x1b[0mSaved plan does not match the given state", "stale_plan"),
        ("api error ExpiredToken: The security token included in the request is expired", "session_over"),
        ("is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::1:role/x", "role_refused"),
        ("something else", "terraform_failed"),
    ],
)
def test_terraforms_last_words(output: str, code: str) -> None:
    found, sentence, _ = run_errors.explain(output, "apply", 1)
    assert found == code and sentence.endswith(".")


def test_terraforms_own_error_is_quoted_without_its_colours() -> None:
    output = "\x1b[31m╷\x1b[0m\n\x1b[31m│\x1b[0m \x1b[1m\x1b[31mError: \x1b[0m\x1b[0m\x1b[1mNo value\x1b[0m\n"
    assert run_errors.explain(output, "plan", 1)[1] == (
        "Terraform ended with an error in the plan (exit code 1): No value. See the log."
    )
