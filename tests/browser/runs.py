"""What people do on the pages of runs, in the words of the pages."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.stack import Stack


def address(environment: str, tab: str = "changes/runs") -> str:
    """The address of a page of an environment of acme."""
    return f"/terraform/acme/environments/{environment}/{tab}"


def queue_plan(page: Page, environment: str) -> None:
    """From the Changes tab to the page of a new run."""
    page.goto(address(environment))
    page.get_by_role("button", name="Queue plan").click()
    expect(page).to_have_url(re.compile(r"/changes/runs/\d+$"))


def status(page: Page) -> Locator:
    """The status line of the run."""
    return page.locator("#status")


def expect_status(page: Page, words: str) -> None:
    """Wait until the page says so; it is not reloaded."""
    expect(status(page)).to_contain_text(words)


def token(page: Page) -> Locator:
    """The field for the code."""
    return page.get_by_label("MFA token code")


def authenticate(page: Page, code: str) -> None:
    """Type a code and click "Authenticate"."""
    token(page).fill(code)
    page.get_by_role("button", name="Authenticate", exact=True).click()


def plan_then_code(page: Page, stack: Stack, environment: str, person: str) -> None:
    """In "plans and applies": queue, and let the plan run with a code; ends at the second gate."""
    queue_plan(page, environment)
    authenticate(page, stack.code(person))
    expect(page.get_by_text("This apply needs a code")).to_be_visible()


def expect_red_lock(page: Page) -> None:
    """The lock in the header is red: icon, words and colour."""
    pill = status(page).locator(".status-auth-failed")
    expect(pill).to_have_text("Authentication failed")
    expect(pill).to_have_css("color", "rgb(177, 33, 31)")
    expect(pill.locator("svg.icon")).to_have_css("stroke", "rgb(177, 33, 31)")


def log_lines(page: Page, kind: str) -> list[str]:
    """The lines of a log as the page shows them: their text, without the numbers in the gutter."""
    script = "lines => lines.map(line => line.textContent.replace(/\\n$/, ''))"
    lines: list[str] = page.locator(f"#{kind}-lines li").evaluate_all(script)
    return [line.strip(" ") if line.startswith(" ") else line for line in lines]
