"""Every page, wide and narrow, light and dark: nothing serious for axe-core, no sideways scrolling, and a picture.

The pictures are for a person to look at: test-artifacts/pages/NAME-WIDTH-SCHEME.jpg.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.browser import gallery
from tests.browser.conftest import ARTIFACTS, Visit, visiting
from tests.browser.gallery import PAGES, Shown
from tests.browser.runs import address, expect_status, token
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser

WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
#: Without preloading: axe would fetch style sheets anew and try to put them into the page, which the CSP forbids.
OPTIONS = {"resultTypes": ["violations"], "preload": False}


@pytest.fixture(scope="module", autouse=True)
def _runs(chromium: Browser, stack: Stack, signed_in: dict[str, StorageState]) -> Iterator[None]:
    with visiting(chromium, stack, signed_in) as visit:
        gallery.make_runs(visit, stack)
    yield
    with visiting(chromium, stack, signed_in) as visit:
        gallery.cancel_the_running_one(visit)


@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.name)
def test_a_page(shown: Shown, visit: Visit, watch: Watch) -> None:
    if shown.name == "not-found":
        watch.expect("the server responded with a status of 404")
    # The colours follow the scheme alone and the layout the width alone, so that two of the four are looked at.
    for form, examined in ((WIDE, "light"), (PHONE, "dark")):
        width = form["viewport"]["width"]
        page = visit(shown.person, shown.path, **form)
        if shown.click:
            page.locator(shown.click).first.click()
            page.wait_for_load_state()  # a link leads to another page, which has no layout before its style sheet
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"scrolls sideways at {width} px"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            _picture(page, f"{shown.name}-{width}-{scheme}")
            assert scheme != examined or _serious(page) == []


def _picture(page: Page, name: str) -> None:
    folder = ARTIFACTS / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    # JPEG, because Chromium takes half a second to write a PNG of a page. Hiding the caret would take an inline style.
    page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=90, full_page=True, caret="initial")


def _serious(page: Page) -> list[str]:
    found = Axe().run(page, options=OPTIONS).response["violations"]
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def test_a_finger_is_enough_on_a_phone(visit: Visit, stack: Stack) -> None:
    page = visit("judy", address("touch"), **PHONE)
    page.get_by_role("button", name="Queue plan").tap()
    expect_status(page, "Awaiting authentication")
    field, button = token(page), page.get_by_role("button", name="Authenticate", exact=True)
    for control in (field, button, page.get_by_role("button", name="Discard")):
        box = control.bounding_box()
        assert box and box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 390
    # Smaller text in a field makes phones zoom in; and a phone offers its digits, and the code of a message.
    assert field.evaluate("field => parseFloat(getComputedStyle(field).fontSize)") >= 16
    expect(field).to_have_attribute("inputmode", "numeric")
    expect(field).to_have_attribute("autocomplete", "one-time-code")
    field.tap()
    page.keyboard.type(stack.code("judy"))
    button.tap()
    expect_status(page, "Applied")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
