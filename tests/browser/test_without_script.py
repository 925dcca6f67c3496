"""The whole story with JavaScript switched off: forms, links and reloads."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import cast
from tests.browser.conftest import PATIENCE, Visit, sign_in
from tests.browser.runs import address, authenticate, log_lines, queue_plan, status, token
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser

LEVEL = "AWS Multi-Factor Authentication"


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
    watch.allow(r"failed request: POST \S+/authenticate net::ERR_ABORTED")  # the first of two clicks, for the browser
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


def test_plans_and_applies(visit: Visit, stack: Stack) -> None:
    page = visit("lena", java_script_enabled=False)
    queue_plan(page, "plain-both")
    calls = len(stack.session_calls("lena"))
    expect(status(page)).to_contain_text("Awaiting authentication")
    authenticate(page, stack.code("lena"))
    _reload_until(page, page.get_by_text("This apply needs a code from an AWS MFA device."))
    assert log_lines(page, "plan")[0] == "Authenticated with MFA by lena"
    expect(page.locator("#apply-log")).to_have_count(0)
    authenticate(page, stack.code("lena"))
    _reload_until(page, status(page).get_by_text("Applied"))
    assert log_lines(page, "apply")[0] == "Authenticated with MFA by lena"
    assert stack.session_calls("lena")[calls:] == ["ok", "ok"]


def test_the_forms_of_settings_and_upload(visit: Visit, watch: Watch) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("alice", address("plain-forms", "settings"), java_script_enabled=False)
    level, minutes = (page.get_by_label(name, exact=True) for name in (LEVEL, "Session length, minutes"))
    level.select_option("plans and applies")
    minutes.fill("5")
    page.get_by_role("button", name="Save settings").click()
    expect(page.locator("#session_minutes-error")).to_contain_text("15 minutes to 36 hours")
    expect(level).to_have_value("plans and applies")
    minutes.fill("30")
    page.get_by_role("button", name="Save settings").click()
    expect(page.locator("#notices")).to_contain_text("Settings saved.")
    expect(page.get_by_text("MFA: plans and applies")).to_be_visible()
    expect(minutes).to_have_value("30")
    page.get_by_label("Reason").fill("for a moment")
    page.get_by_role("button", name="Lock plain-forms").click()
    expect(page.get_by_text("for a moment").first).to_be_visible()
    page.locator("summary", has_text="Unlock plain-forms").click()
    page.get_by_role("button", name="Unlock plain-forms").click()
    expect(page.locator("#notices")).to_contain_text("plain-forms is unlocked.")

    page.goto(address("plain-forms"))
    _upload(page, b"no archive")
    expect(page.locator("#archive-error")).to_have_text("The file is neither a .tar.gz nor a .zip archive.")
    _upload(page, cast.archive('resource "terraform_data" "one" {}\n').getvalue())
    expect(page).to_have_url(re.compile(r"/changes/runs/1$"))
    expect(status(page)).to_contain_text("Awaiting authentication")


def _upload(page: Page, content: bytes) -> None:
    page.get_by_label("Archive").set_input_files({"name": "it.tar.gz", "mimeType": "", "buffer": content})
    page.get_by_role("button", name="Upload as v1 and queue a plan").click()
