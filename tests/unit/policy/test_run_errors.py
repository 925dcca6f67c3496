"""What terraform's last words mean for a person."""

from __future__ import annotations

import pytest

from policy.run_errors import explain

ROLE = """
\x1b[31m╷\x1b[0m
│ \x1b[1mError: Cannot assume IAM Role\x1b[0m
│
│ Error: operation error STS: AssumeRole, https response error StatusCode:
│ 403, RequestID: 0c0426b4-cf69-45bf-aeab-bd28a7fcdd89, api error
│ AccessDenied: User: arn:aws:iam::123456789012:user/alice is not authorized
│ to perform: sts:AssumeRole on resource:
│ arn:aws:iam::123456789012:role/deploy
╵
"""


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (ROLE, "role_refused"),
        ("│ Error: Saved plan is stale\n│\n│ The given plan file can no longer be applied", "stale_plan"),
        ("│ Error: Saved plan does not match the given\n│ state\n", "stale_plan"),
        ("│ api error\n│ ExpiredToken: The security token included in the request is expired", "session_over"),
        ("│ api error InvalidClientTokenId: The security token", "keys_unknown"),
        ("nothing that is known", "terraform_failed"),
    ],
)
def test_the_cause_is_found_however_terraform_wraps_its_words(output: str, code: str) -> None:
    assert explain(output, "plan", 1)[0] == code


def test_an_unknown_error_is_quoted_without_colours() -> None:
    output = "\x1b[31m│\x1b[0m \x1b[1mError: \x1b[0mInvalid index.\n│ The given key does not identify an element\n"
    assert explain(output, "apply", 1) == (
        "terraform_failed",
        "Terraform ended with an error in the apply (exit code 1): Invalid index. See the log.",
        "",
    )
    assert explain("", "plan", None)[1] == "Terraform ended with an error in the plan. See the log."


def test_a_terraform_that_was_killed_did_not_end_by_itself() -> None:
    assert explain("│ Error: Saved plan is stale\n", "apply", -9) == (
        "terraform_killed",
        "Terraform was killed (signal 9) in the apply; a system that runs out of memory does so. What it was working"
        " on may exist in AWS without being in the state.",
        "Look there, then queue a new plan.",
    )
    assert explain("", "plan", -15) == (
        "terraform_killed",
        "Terraform was killed (signal 15) in the plan. Nothing was changed.",
        "Queue a new plan.",
    )


@pytest.mark.parametrize("output", ["Saved plan is stale", "ExpiredToken", "InvalidClientTokenId", ROLE, "else"])
@pytest.mark.parametrize("exit_code", [1, -9])
def test_what_holds_only_with_a_state_that_is_stored_is_apart(output: str, exit_code: int) -> None:
    _, sentence, then = explain(output, "apply", exit_code)
    assert "saved" not in sentence.lower() and "ueue" not in sentence
    assert then == "" or "ueue a new" in then


def test_nothing_that_controls_a_terminal_or_a_page_is_quoted() -> None:
    output = "Error: a\x00b\x07c\x1bd\x7fe\x9b31mf\u202eg\u2066h\r\n│ more"
    assert explain(output, "plan", None)[1] == "Terraform ended with an error in the plan: abcde31mfgh. See the log."
