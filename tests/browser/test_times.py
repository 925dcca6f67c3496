"""What static/app.js makes of times on a page that stays open; needs no stack."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser

SCRIPT = Path(__file__).resolve().parents[2] / "static" / "app.js"
START = dt.datetime(2026, 11, 28, 12, 0, tzinfo=dt.UTC)


def test_an_age_grows_on_and_after_a_day_is_the_day_as_the_server_says_it(chromium: Browser) -> None:
    page = chromium.new_page(timezone_id="UTC")
    try:
        page.clock.install(time=START)
        page.set_content(
            '<time id="new" datetime="2026-11-28T11:59:50+00:00" data-time="ago">10 s ago</time>'
            '<time id="old" datetime="2026-09-12T14:02:00+00:00" data-time="ago">12 Sep 2026</time>'
        )
        page.add_script_tag(path=SCRIPT)
        age = page.locator("#new")
        for passed, words in (("05:00", "5 min ago"), ("02:00:00", "2 h ago"), ("21:00:00", "23 h ago")):
            page.clock.fast_forward(passed)
            expect(age).to_have_text(words)
        page.clock.fast_forward("01:00:00")
        expect(age).to_have_text("28 Nov 2026", timeout=3000)
        page.clock.fast_forward("48:00:00")
        expect(age).to_have_text("28 Nov 2026", timeout=3000)
        expect(page.locator("#old")).to_have_text("12 Sep 2026")
    finally:
        page.close()
