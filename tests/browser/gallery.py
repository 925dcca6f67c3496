"""The pages to look at: which there are, and the runs that some of them show."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.runs import address, authenticate, expect_status, queue_plan
from tests.browser.stack import Stack


@dataclass(frozen=True)
class Shown:
    """A page: who looks at it, where it is, what is clicked to open something on it."""

    name: str
    person: str
    path: str
    click: str = ""


def _run(environment: str) -> str:
    return f"{address(environment)}/1"


PAGES = (
    Shown("sign-in", "", "/login"),
    Shown("not-found", "alice", "/terraform/acme/environments/nowhere"),
    Shown("password", "alice", "/settings/password"),
    Shown("sessions", "alice", "/settings/sessions", "details.confirm > summary"),
    Shown("prove", "alice", "/settings/sessions/prove"),
    Shown("second-factor", "alice", "/settings/second-factor"),
    Shown("signing-in", "alice", "/terraform/acme/signing-in", ".row-actions > details > summary"),
    Shown("first-steps", "olga", "/terraform/harbour"),
    Shown("new-environment", "alice", "/terraform/acme/environments/new"),
    Shown("environments", "alice", "/terraform/acme", ".menu > summary"),
    Shown("organization-variables", "alice", "/settings/organization_variables", "#personal-new > summary"),
    Shown("nothing-set", "olga", "/settings/organization_variables"),
    Shown("variables", "alice", address("production", "variables"), "details.card > summary"),
    Shown("variable-edited", "alice", address("production", "variables"), ".row-actions a"),
    Shown("settings", "alice", address("gallery-plan", "settings")),
    Shown("settings-read-only", "bob", address("gallery-locked", "settings")),
    Shown("states", "alice", address("gallery-applied", "states")),
    Shown("no-states", "alice", address("empty", "states")),
    Shown("states-compare", "alice", address("gallery-applied", "states/compare"), ".change > summary"),
    Shown("state-upload", "alice", address("gallery-applied", "states/upload")),
    Shown("state-terminal", "alice", address("gallery-applied", "states/terminal")),
    Shown("tokens", "alice", "/settings/tokens"),
    Shown("runs", "alice", address("gallery-discarded"), "text=Upload another configuration"),
    Shown("runs-none", "alice", address("empty")),
    Shown("run-awaiting-plan", "alice", _run("gallery-plan")),
    Shown("run-awaiting-apply", "alice", _run("gallery-code"), ".change > summary >> nth=0"),
    Shown("run-refused", "karl", _run("gallery-failed")),
    Shown("run-awaiting-confirmation", "alice", _run("gallery-confirm")),
    Shown("run-applying", "alice", _run("gallery-running")),
    Shown("run-applied", "alice", _run("gallery-applied")),
    Shown("run-errored", "alice", _run("gallery-broken")),
    Shown("run-discarded", "alice", _run("gallery-discarded")),
)


def make_runs(visit: Visit, stack: Stack) -> None:
    """The runs of the pages above."""
    names = ("plan", "code", "failed", "applied", "confirm", "broken", "running", "discarded")
    pages = {}
    for name in names:
        person = "karl" if name == "failed" else "lena" if name == "applied" else "alice"
        pages[name] = visit(person)
        queue_plan(pages[name], f"gallery-{name}")
    expect_status(pages["failed"], "Awaiting authentication")
    authenticate(pages["failed"], stack.wrong_code("karl"))
    expect_status(pages["failed"], "Authentication failed")
    expect_status(pages["applied"], "Awaiting authentication")
    authenticate(pages["applied"], stack.code("lena"))
    for name in ("broken", "running"):
        pages[name].get_by_role("button", name="Confirm & Apply").click()
    pages["discarded"].get_by_role("button", name="Discard").click()
    ends = {"applied": "Applied", "broken": "Errored", "discarded": "Discarded", "code": "Awaiting authentication"}
    for name, words in ends.items():
        expect_status(pages[name], words)
    expect(pages["running"].locator("#apply-lines")).to_contain_text("(local-exec): waiting")
    locked = visit("bob", address("gallery-locked", "settings"))
    locked.get_by_label("Reason").fill("The certificate is being replaced")
    locked.get_by_role("button", name="Lock gallery-locked").click()
    expect(locked.get_by_text("Locked by bob").first).to_be_visible()


def cancel_the_running_one(visit: Visit) -> None:
    """End the run that would go on for minutes."""
    page = visit("alice", _run("gallery-running"))
    page.locator(".gate details.confirm > summary").click()
    page.get_by_role("button", name="Cancel apply").click()
    expect_status(page, "Canceled")
