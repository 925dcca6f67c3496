"""The counts in Terraform's closing line."""

from __future__ import annotations

import pytest

from policy.plan_summary import Counts, counts_from_log

INDENTED = "  + notes = <<-EOT\n        Plan: 9 to add, 9 to change, 9 to destroy.\n    EOT\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plan: 3 to add, 1 to change, 0 to destroy.", Counts(3, 1, 0)),
        ("x\n\n\x1b[1mPlan:\x1b[0m 3 to add, 1 to change, 2 to destroy.\n\x1b[0m\n", Counts(3, 1, 2)),
        ("\x1b[0m\x1b[1mPlan:\x1b[0m \x1b[0m12 to add, 0 to change, 0 to destroy.\r\n", Counts(12)),
        ("Plan: 1 to import, 2 to add, 0 to change, 0 to destroy.", Counts(2, imported=1)),
        ("Plan: 2 to add, 0 to change, 0 to destroy, 1 to forget.", Counts(2, forgotten=1)),
        ("Plan: 1 to add, 0 to change, 0 to destroy. Actions: 4 to invoke.", Counts(1)),
        (f"{INDENTED}\nPlan: 1 to add, 0 to change, 0 to destroy.\n", Counts(1)),
        (
            "Plan: 0 to add, 1 to change, 0 to destroy.\n\nChanges to Outputs:\n  ~ x = 1 -> 2\n",
            Counts(change=1, outputs_changed=True),
        ),
        ("\x1b[0m\nChanges to Outputs:\n  + x = 1\n\nYou can apply this plan", Counts(outputs_changed=True)),
        (
            "\x1b[0m\x1b[1m\x1b[32mNo changes.\x1b[0m\x1b[1m Your infrastructure matches the configuration.",
            Counts(),
        ),
        ("No changes. Infrastructure is up-to-date.", Counts()),
        ("\x1b[1m\x1b[32m\nApply complete! Resources: 1 added, 2 changed, 3 destroyed.\n", Counts(1, 2, 3)),
        (
            "Apply complete! Resources: 1 imported, 0 added, 2 changed, 0 destroyed, 1 forgotten.",
            Counts(0, 2, 0, 1, 1),
        ),
        ("Destroy complete! Resources: 4 destroyed.", Counts(destroy=4)),
        (
            "Apply complete! Resources: 1 added, 0 changed, 0 destroyed.\n\nOutputs:\n\nx = <<EOT\n"
            "Apply complete! Resources: 9 added, 9 changed, 9 destroyed.\nEOT\n",
            Counts(1),
        ),
        ("terraform_data.x (local-exec): Apply complete! Resources: 9 added, 9 changed, 9 destroyed.", None),
        ("╷\n│ Error: No changes.\n", None),
        ("", None),
    ],
)
def test_the_closing_line_is_read(text: str, expected: Counts | None) -> None:
    assert counts_from_log(text) == expected


def test_only_no_changes_is_nothing() -> None:
    assert Counts().nothing
    assert not Counts(outputs_changed=True).nothing and not Counts(imported=1).nothing
