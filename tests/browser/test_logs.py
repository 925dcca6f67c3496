"""Logs that grow: nothing is lost and nothing doubled, whatever happens to the page meanwhile."""

from __future__ import annotations

import re

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
    watch.allow("Response Status Error Code 500 from /terraform/acme/environments/reload/changes/runs/1/apply/log")
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
        troubled.wait_for_event(event, lambda request: "/apply/log?" in request.url)
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
        assert each.locator("#apply-lines .line").evaluate_all(
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

    page.route(re.compile(r"/apply/log\?"), fail)
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


def test_follow_and_wrap_and_the_whole_of_a_long_log(visit: Visit) -> None:
    page = visit("erin")
    queue_plan(page, "long")
    page.get_by_role("button", name="Confirm & Apply").click()
    log = page.locator("#apply-log")
    view = log.locator(".log-view")
    expect(log).to_contain_text("row 3000")
    expect_status(page, "Applied")
    expect(log).to_contain_text("Apply complete!")
    # Following: the end is in sight. Scrolling up stops it.
    view.focus()
    follow = log.get_by_label("Follow the end")
    expect(follow).to_be_checked()
    expect(log.locator(".line").last).to_be_in_viewport()
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    expect(follow).not_to_be_checked()
    expect(log.locator(".line").last).not_to_be_in_viewport()
    follow.check()
    expect(log.locator(".line").last).to_be_in_viewport()

    log.get_by_label("Wrap lines").check()
    assert view.evaluate("view => view.scrollWidth <= view.clientWidth")

    page.reload()
    begun_with = len(log_lines(page, "apply"))
    total = len(_raw(page, "apply"))
    assert 1000 <= begun_with < total
    expect(page.locator("#apply-log")).to_contain_text(f"Lines 1 to {total - begun_with:,} are not shown.")
    page.locator("#apply-log").get_by_role("link", name="Show the whole log").click()
    expect(page.locator("#apply-lines .line")).to_have_count(total)
    assert [line.strip() for line in log_lines(page, "apply")] == _raw(page, "apply")
    expect(page.locator("#apply-log")).to_have_attribute("open", "")
