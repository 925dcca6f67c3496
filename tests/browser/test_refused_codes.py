"""Codes that are not accepted: what the page says, and how it goes on from there."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.runs import (
    authenticate,
    expect_red_lock,
    expect_status,
    queue_plan,
    token,
)
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser


def test_a_wrong_code_turns_the_lock_red_and_the_next_one_works_at_once(
    visit: Visit, stack: Stack, watch: Watch
) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("carol")
    queue_plan(page, "refused")
    expect_status(page, "Awaiting authentication")
    authenticate(page, stack.wrong_code("carol"))
    expect_status(page, "Authentication failed")
    expect_red_lock(page)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("AWS did not accept that code. Wait for a new code and try again")
    expect(alert).to_contain_text("AWS answered AccessDenied")
    expect(page.get_by_text("The apply has not started. The plan is still good.")).to_be_visible()
    # The form is ready for the next code: empty, marked, in focus.
    expect(token(page)).to_have_value("")
    expect(token(page)).to_have_attribute("aria-invalid", "true")
    expect(token(page)).to_be_focused()

    # Somebody else who opens the page sees the same.
    other = visit("dave", page.url)
    expect_red_lock(other)
    expect(other.get_by_text("1 failed, the last by carol")).to_be_visible()

    spaced = stack.code("carol")
    authenticate(page, f"{spaced[:3]} {spaced[3:]}")
    expect_status(page, "Applied")
    expect(page.get_by_text("Authentication failed")).to_have_count(0)
    expect(other.locator("#status")).to_contain_text("Applied")


def test_a_code_works_once(visit: Visit, stack: Stack, watch: Watch) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("carol")
    queue_plan(page, "reused")
    code = stack.code("carol")
    authenticate(page, code)
    expect(page.get_by_text("This apply needs a code")).to_be_visible()
    calls = len(stack.session_calls("carol"))
    authenticate(page, code)
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"already sent.* Next code in \d+ s\."))
    expect_red_lock(page)
    assert len(stack.session_calls("carol")) == calls, "AWS was asked for a code that was used already"
    authenticate(page, stack.code("carol"))
    expect_status(page, "Applied")


def test_letters_are_refused_before_anything_is_sent(visit: Visit, stack: Stack) -> None:
    page = visit("dave")
    queue_plan(page, "half-typed")
    authenticate(page, "12ab56")
    # The browser itself holds such a form back and says why.
    assert token(page).evaluate("field => field.validity.patternMismatch")
    assert stack.session_calls("dave") == []
    page.get_by_role("button", name="Discard").click()
    expect_status(page, "Discarded")


def test_what_is_half_typed_stays_while_somebody_else_fails(visit: Visit, stack: Stack, watch: Watch) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("dave")
    queue_plan(page, "half-typed")
    token(page).press_sequentially("123")
    other = visit("erin", page.url)
    authenticate(other, stack.wrong_code("erin"))
    expect_red_lock(other)
    expect_red_lock(page)
    expect(token(page)).to_have_value("123")
    expect(token(page)).to_be_focused()
    token(page).fill("")
    authenticate(page, stack.code("dave"))
    expect(page.get_by_text("Authenticated with MFA by dave").first).to_be_visible()
    expect(page.get_by_text("This apply needs a code")).to_be_visible()
