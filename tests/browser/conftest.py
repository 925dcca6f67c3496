"""Real Chromium against the whole stack, which `make demo` starts once for all tests here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect, sync_playwright

from tests.browser import stack as stacks
from tests.browser.stack import Stack
from tests.browser.watch import Watch

ARTIFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"
#: How long a page may take to change; terraform starts several processes on what may be a busy machine.
PATIENCE = 40_000

#: The popup of Chromium's own address bar: two pages that each context would load, for half a second of a processor.
_POPUPS = ("WebUIOmniboxPopup", "WebUIOmniboxAimPopup")
#: What Playwright turns off. Chromium goes by the last list that it is given.
_PLAYWRIGHTS = (
    "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable", "LensOverlay", "MediaRouter", "PaintHolding", "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect", "OptimizationHints", "NetworkTimeServiceQuerying", "AimEnabled",
    "PreconnectToSearch",
)  # fmt: skip

Visit = Callable[..., Page]

#: When somebody signed in whose cookies are kept.
_SINCE: dict[str, float] = {}


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The running stack."""
    with stacks.running() as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; a missing one fails."""
    expect.set_options(timeout=PATIENCE)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    features = ",".join((*_PLAYWRIGHTS, *_POPUPS))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[*arguments, "--disable-sync", "--no-first-run", f"--disable-features={features}"],
        )
        yield browser
        browser.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Ends the test with the assertion that no page complained."""
    watch = Watch()
    yield watch
    watch.check()


@pytest.fixture(scope="session")
def signed_in() -> dict[str, StorageState]:
    """The cookies of those who signed in already."""
    return {}


@pytest.fixture
def visit(chromium: Browser, stack: Stack, watch: Watch, signed_in: dict[str, StorageState]) -> Iterator[Visit]:
    """``visit("alice", "/path", **options of the context)``: a page in a browser of her own, signed in; "": nobody."""
    with visiting(chromium, stack, signed_in, watch) as visit:
        yield visit


@contextmanager
def visiting(
    chromium: Browser, stack: Stack, signed_in: dict[str, StorageState], watch: Watch | None = None
) -> Iterator[Visit]:
    """What :func:`visit` gives to a test, for fixtures of other scopes."""
    contexts = []

    def visit(person: str, path: str = "/", **options: Any) -> Page:
        # Administration asks for a password that was given 15 minutes ago.
        fresh = person in signed_in and time.monotonic() - _SINCE.get(person, 0) < 600
        if fresh:
            options["storage_state"] = signed_in[person]
        # Without motion: spinning icons would keep a processor busy that has no graphics card beside it.
        usual = {"viewport": {"width": 1280, "height": 900}, "timezone_id": "UTC", "reduced_motion": "reduce"}
        context = chromium.new_context(base_url=stack.url, **{**usual, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        if watch is not None:
            watch.attach(context)
        page = context.new_page()
        if person and not fresh:
            sign_in(page, person, stack.passwords[person])
            signed_in[person], _SINCE[person] = context.storage_state(), time.monotonic()
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()


def sign_in(page: Page, person: str, password: str) -> None:
    """Sign in by the form."""
    page.goto("/login")
    page.get_by_label("User name").fill(person)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text(person).first).to_be_visible()
