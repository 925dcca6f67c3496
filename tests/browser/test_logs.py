"""Logs that grow: nothing is lost and nothing doubled, whatever happens to the page meanwhile."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import cast
from tests.browser.conftest import Visit
from tests.browser.runs import address, expect_status, log_lines, queue_plan
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_an_upload_applies_and_its_log_survives_reloads_errors_and_a_second_tab(visit: Visit, watch: Watch) -> None:
    watch.expect("the server responded with a status of 500")
    watch.allow("Response Status Error Code 500 from /terraform/acme/environments/reload/changes/runs/1/status")
    watch.expect("ERR_CONNECTION_REFUSED")
    watch.expect("htmx:sendError")
    page = visit("erin", address("reload"))
    archive = cast.archive(cast.GROWING).getvalue()
    page.get_by_label("Archive").set_input_files(
        {"name": "growing.tar.gz", "mimeType": "application/gzip", "buffer": archive}
    )
    page.get_by_label("Message, optional").fill("A log that grows")
    page.get_by_role("button", name="Upload as v1 and queue a plan").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A log that grows")
    expect_status(page, "Awaiting confirmation")

    second_tab = page.context.new_page()
    second_tab.goto(page.url)
    troubled = visit("frank", page.url)
    failures = _break_the_log(troubled)
    page.get_by_role("button", name="Confirm & Apply").click()

    for number in (20, 50):
        expect(page.locator("#apply-lines")).to_contain_text(f"line {number} of the growing log")
        page.reload()
    expect(troubled.get_by_text("The server does not answer. This page keeps trying")).to_be_visible()
    # Some answers are errors and some never come.
    for event in ("requestfailed", "requestfinished", "requestfailed"):
        troubled.wait_for_event(event, lambda request: "/status?" in request.url)
    troubled.unroute_all()
    for each in (page, second_tab, troubled):
        expect_status(each, "Applied")
        expect(each.locator("#apply-lines")).to_contain_text("Apply complete!")
    expect(troubled.get_by_text("The server does not answer.")).to_be_hidden()
    assert len(failures) >= 4

    raw = _raw(page, "apply")
    assert sum("of the growing log: " in line and line.endswith("x") for line in raw) == 120
    for each in (page, second_tab, troubled):
        assert [line.strip() for line in log_lines(each, "apply")] == raw
        assert each.locator("#apply-lines li").evaluate_all(
            "lines => lines.every((line, index) => line.id === `apply-${index + 1}`)"
        )
        assert [line.strip() for line in log_lines(each, "plan")] == _raw(each, "plan")
        # Nothing asks any more once the run has ended.
        assert each.locator("[hx-get]").count() == 0


def _break_the_log(page: Page) -> list[str]:
    failures: list[str] = []

    def fail(route: Route) -> None:
        failures.append(route.request.url)
        if len(failures) % 2:
            route.fulfill(status=500, body="broken on purpose")
        else:
            route.abort("connectionrefused")

    page.route(re.compile(r"/runs/\d+/status\?"), fail)
    return failures


def _raw(page: Page, kind: str) -> list[str]:
    """The raw download, without colours."""
    log = page.locator(f"#{kind}-log")
    if log.get_attribute("open") is None:
        log.locator("summary").click()
    with page.expect_download() as download:
        log.get_by_role("link", name="Download raw").click()
    text = download.value.path().read_text(encoding="utf-8")
    return [_COLOURS.sub("", line).strip() for line in text.removesuffix("\n").split("\n")]


def test_follow_and_wrap_and_every_line_of_a_long_log(visit: Visit) -> None:
    page = visit("erin")
    queue_plan(page, "long")
    page.get_by_role("button", name="Confirm & Apply").click()
    log = page.locator("#apply-log")
    view = log.locator(".log-view")
    expect(log).to_contain_text("row 3000")
    expect_status(page, "Applied")
    expect(log).to_contain_text("Apply complete!")
    # Following: the end is in sight. Scrolling up stops it, and goes as far as it goes in any text.
    view.focus()
    follow = log.get_by_label("Follow the end")
    expect(follow).to_be_checked()
    expect(log.locator("li").last).to_be_in_viewport()
    page.keyboard.press("PageUp")
    expect(follow).not_to_be_checked()
    expect(log.locator("li").last).not_to_be_in_viewport()
    follow.check()
    expect(log.locator("li").last).to_be_in_viewport()
    view.hover()
    page.mouse.wheel(0, -600)
    expect(follow).not_to_be_checked()
    expect(log.locator("li").last).not_to_be_in_viewport()
    follow.check()
    expect(log.locator("li").last).to_be_in_viewport()

    log.get_by_label("Wrap lines").check()
    assert view.evaluate("view => view.scrollWidth <= view.clientWidth")

    page.reload()
    raw = _raw(page, "apply")
    lines = page.locator("#apply-lines li")
    expect(lines).to_have_count(2000)
    expect(log).to_contain_text(f"Lines 1 to {len(raw) - 2000:,} are not shown.")
    expect(log.get_by_text("this page has a part of the log")).to_be_visible()
    # A long log opens at its end, also when it is not followed. Numbers are those of the lines.
    expect(lines.last).to_be_in_viewport()
    assert lines.first.evaluate("line => line.id") == f"apply-{len(raw) - 1999}"

    # Earlier lines come above what is read, by the keyboard alone, and push it nowhere.
    earlier = log.get_by_role("link", name="Show earlier lines")
    mark = page.locator(f"#apply-{len(raw) - 1999}")
    earlier.focus()
    before = mark.bounding_box()
    page.keyboard.press("Enter")
    expect(lines).to_have_count(len(raw))
    after = mark.bounding_box()
    assert before and after and abs(before["y"] - after["y"]) < 3
    expect(view).to_be_focused()
    assert [line.strip() for line in log_lines(page, "apply")] == raw
    expect(log.get_by_text("not shown.")).to_have_count(0)
    expect(log.get_by_text("this page has a part of the log")).to_be_hidden()


def test_a_line_has_an_address_that_works_for_others(visit: Visit) -> None:
    page = visit("erin")
    queue_plan(page, "long-address")
    page.get_by_role("button", name="Confirm & Apply").click()
    expect_status(page, "Applied")
    expect(page.locator("#apply-log")).to_contain_text("Apply complete!")
    number = page.locator("#apply-lines li", has_text="row 2999").first.evaluate("line => line.id")
    page.locator(f"#{number} > a").click()
    expect(page).to_have_url(re.compile(rf"/runs/\d+\?line={number}#{number}$"))
    expect(page.locator(f"#{number}")).to_have_css("background-color", "rgb(251, 240, 217)")

    # A line of the beginning, for somebody who was sent the short address of it, and without JavaScript.
    path = page.url.partition("?")[0]
    for other in (
        visit("frank", f"{path}#apply-100"),
        visit("frank", f"{path}?line=apply-100", java_script_enabled=False),
    ):
        line = other.locator("#apply-100")
        expect(line).to_contain_text("row ")
        if "#" in other.url:
            expect(line).to_be_in_viewport()
            expect(other).to_have_url(re.compile(r"\?line=apply-100#apply-100$"))
        expect(other.locator("#apply-log")).to_have_attribute("open", "")
        gap = other.locator("#apply-log .log-gap")
        expect(gap).to_contain_text("are not shown.")
        expect(other.locator("#apply-lines")).to_contain_text("Apply complete!")
        gap.get_by_role("link", name="Show later lines").click()
        expect(other.locator("#apply-lines")).to_contain_text("row 600")


def test_whoever_pressed_a_button_sees_soon_what_it_does(visit: Visit) -> None:
    page = visit("erin")
    queue_plan(page, "soon")
    expect_status(page, "Awaiting confirmation")
    asked: list[float] = []
    page.on("request", lambda request: asked.append(time.monotonic()) if "/status?" in request.url else None)
    page.get_by_role("button", name="Confirm & Apply").click()
    expect_status(page, "Applied")
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps and min(gaps) < 0.6


def test_a_hidden_tab_asks_seldom_and_catches_up_at_once(visit: Visit) -> None:
    page = visit("erin")
    queue_plan(page, "hidden")
    expect_status(page, "Awaiting confirmation")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/status?" in request.url else None)
    _hide(page, True)
    with page.expect_response(re.compile("/status\\?"), timeout=30_000):
        begun = page.evaluate("performance.now()")
    assert page.evaluate("performance.now()") - begun > 8_000
    assert len(asked) == 1
    # An answer that is still on its way is the one that the tab catches up with.
    expect(page.locator("#poll")).not_to_have_class(re.compile("htmx-request"))
    with page.expect_request(re.compile("/status\\?"), timeout=2_000):
        _hide(page, False)


def _hide(page: Page, yes: bool) -> None:
    """What a page sees when its tab goes to the background, or comes back."""
    page.evaluate(
        """yes => {
          Object.defineProperty(document, "hidden", { value: yes, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        yes,
    )
