"""Two people on one run: both see the same, and only one of them can be first."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Visit
from tests.browser.runs import authenticate, expect_status, queue_plan
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser


def test_one_authenticates_the_run_of_another_with_his_own_device(visit: Visit, stack: Stack) -> None:
    alices = visit("alice")
    queue_plan(alices, "shared")
    bobs = visit("bob", alices.url)
    for page, device in ((alices, "alice"), (bobs, "bob")):
        expect_status(page, "Awaiting authentication")
        expect(page.get_by_text(stack.identity(device)["mfa_serial"])).to_be_visible()
    calls = stack.session_calls("alice")
    authenticate(bobs, stack.code("bob"))
    for page in (alices, bobs):
        expect_status(page, "Applied")
        expect_status(page, "Authenticated with MFA by bob")
        expect(page.locator("#apply-lines li").first).to_contain_text("Authenticated with MFA by bob")
        expect(page.get_by_text("Applied by bob")).to_be_visible()
        expect(page.get_by_role("button", name="Authenticate")).to_have_count(0)
    assert stack.session_calls("alice") == calls
    assert stack.session_calls("bob")[-1] == "ok"


def test_who_is_too_late_reads_so_and_sees_what_happened(visit: Visit, watch: Watch) -> None:
    watch.expect("the server responded with a status of 409")
    first = visit("dave")
    queue_plan(first, "race")
    late = visit("erin", first.url)
    for page in (first, late):
        expect_status(page, "Awaiting confirmation")
    # As if both clicked at once: the second page has not heard of the first click.
    late.route(re.compile(r"/status(\?|$)"), _nothing_new)
    first.get_by_role("button", name="Discard").click()
    expect_status(first, "Discarded")
    late.get_by_role("button", name="Confirm & Apply").click()
    expect(late.get_by_role("alert")).to_contain_text(re.compile("discarded", re.IGNORECASE))
    expect_status(late, "Discarded")
    expect(late.get_by_text("Discarded by dave")).to_be_visible()
    expect(late.get_by_role("button", name="Confirm & Apply")).to_have_count(0)
    expect(late.locator("#apply-log")).to_have_count(0)


def _nothing_new(route: Route) -> None:
    route.fulfill(status=204)
