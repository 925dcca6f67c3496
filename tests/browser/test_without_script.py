"""The whole story with JavaScript switched off: forms, links and reloads."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PATIENCE, Visit, sign_in
from tests.browser.runs import authenticate, log_lines, queue_plan, status, token
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser


def _reload_until(page: Page, wanted: Locator) -> None:
    """As the page says: it does not change by itself, "Refresh" does."""
    end = time.monotonic() + PATIENCE / 1000
    while not wanted.count():
        assert time.monotonic() < end, f"{wanted} did not come"
        page.locator("noscript").first.get_by_role("link", name="Refresh").click()
        page.wait_for_load_state()


def test_never(visit: Visit, stack: Stack) -> None:
    page = visit("", "/login", java_script_enabled=False)
    sign_in(page, "frank", stack.passwords["frank"])
    queue_plan(page, "plain-never")
    _reload_until(page, status(page).get_by_text("Awaiting confirmation"))
    page.get_by_role("button", name="Confirm & Apply").click()
    _reload_until(page, status(page).get_by_text("Applied"))
    assert "Apply complete! Resources: 3 added, 0 changed, 0 destroyed." in log_lines(page, "apply")
    page.get_by_role("link", name="States").click()
    expect(page.get_by_role("cell", name="current")).to_be_visible()
    page.get_by_text("frank").first.click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_applies_only(visit: Visit, stack: Stack, watch: Watch) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("frank", java_script_enabled=False)
    queue_plan(page, "plain-code")
    _reload_until(page, token(page))
    authenticate(page, stack.wrong_code("frank"))
    expect(page.get_by_role("alert")).to_contain_text("AWS did not accept that code.")
    expect(status(page)).to_contain_text("Authentication failed")
    calls = len(stack.session_calls("frank"))
    token(page).fill(stack.code("frank"))
    page.get_by_role("button", name="Authenticate", exact=True).dblclick()
    _reload_until(page, status(page).get_by_text("Applied"))
    expect(status(page)).to_contain_text("Authenticated with MFA by frank")
    assert stack.session_calls("frank")[calls:] == ["ok"]
