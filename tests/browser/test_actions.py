"""Buttons, keys and what comes in between: one click is one deed, and the page always says what is so."""

from __future__ import annotations

import io
import re
import tarfile

import pytest
from playwright.sync_api import Page, expect

from tests.browser import cast
from tests.browser.conftest import Visit, sign_in
from tests.browser.runs import address, authenticate, expect_status, log_lines, queue_plan, token
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser


def test_confirm_and_apply_in_never(visit: Visit) -> None:
    page = visit("grace")
    queue_plan(page, "confirm")
    expect_status(page, "Awaiting confirmation")
    expect(token(page)).to_have_count(0)
    page.get_by_role("button", name="Confirm & Apply").click()
    expect_status(page, "Applied")
    expect(page.get_by_text("Applied by grace")).to_be_visible()
    expect(page.get_by_text("Authenticated with MFA")).to_have_count(0)
    # The same again finds nothing to do, and says so without a button to apply.
    queue_plan(page, "confirm")
    expect_status(page, "No changes")
    expect(page.get_by_role("button", name="Confirm & Apply")).to_have_count(0)


#: What a poll brings when the attributes of a plan follow, as tall as a large plan.
GROWN = """() => {
  const card = '<section class="card" id="plan-card" hx-swap-oob="true">';
  htmx.swap("body", `${card}${"<p>A resource</p>".repeat(60)}</section>`, { swapStyle: "none" });
}"""


@pytest.mark.parametrize("by", ["pointer", "keyboard", "nobody"])
def test_what_is_about_to_be_pressed_stays_where_it_is(visit: Visit, by: str) -> None:
    """A click must not meet with something else because the plan above has just grown."""
    page = visit("grace")
    queue_plan(page, "still")
    button = page.get_by_role("button", name="Confirm & Apply")
    expect(page.locator("#plan-card .change").first).to_be_visible()
    if by == "pointer":
        button.hover()
    elif by == "keyboard":
        button.focus()
    before = button.bounding_box()
    page.evaluate(GROWN)
    expect(page.locator("#plan-card p")).to_have_count(60)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    after = button.bounding_box()
    assert before is not None and after is not None
    if by == "nobody":  # who reads the plan goes on reading where they were
        assert page.evaluate("scrollY") == 0 and after["y"] > before["y"] + 500
    else:
        assert after["y"] == pytest.approx(before["y"], abs=1)
    page.get_by_role("button", name="Discard").click()
    expect_status(page, "Discarded")


def test_cancel_while_applying(visit: Visit) -> None:
    page = visit("grace")
    queue_plan(page, "cancel")
    page.get_by_role("button", name="Confirm & Apply").click()
    expect(page.locator("#apply-lines")).to_contain_text("(local-exec): waiting")
    page.get_by_text("Cancel apply", exact=True).first.click()
    expect(page.get_by_text("Cancel this apply?")).to_be_visible()
    page.get_by_role("button", name="Cancel apply").click()
    expect_status(page, "Canceled")
    expect(page.get_by_role("heading", name="Canceled by grace")).to_be_visible()
    assert any("Interrupt" in line for line in log_lines(page, "apply"))
    # What was finished before is kept.
    page.get_by_role("link", name="States").click()
    expect(page.get_by_role("cell", name=re.compile("current"))).to_be_visible()


def test_keys_alone_are_enough(visit: Visit, stack: Stack) -> None:
    page = visit("grace")
    queue_plan(page, "keyboard")
    expect_status(page, "Awaiting authentication")
    expect(page.locator("#plan-card .change").first).to_be_visible()
    # Not under an unread plan: the field waits until one comes to it.
    expect(token(page)).not_to_be_focused()
    page.reload()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if seen[-1] == "token":
            break
    assert seen[-1] == "token", seen
    page.keyboard.type(stack.code("grace"))
    page.keyboard.press("Enter")
    expect_status(page, "Applied")


def test_a_double_click_asks_aws_once(visit: Visit, stack: Stack) -> None:
    page = visit("heidi")
    queue_plan(page, "double")
    expect_status(page, "Awaiting authentication")
    stack.switch(slow={"seconds": 1, "calls": 2, "action": "GetSessionToken"})
    token(page).fill(stack.code("heidi"))
    page.get_by_role("button", name="Authenticate", exact=True).dblclick()
    expect_status(page, "Applied")
    stack.switch(slow=False)
    assert stack.session_calls("heidi") == ["ok"]


def test_back_and_forward_after_a_code(visit: Visit, stack: Stack) -> None:
    page = visit("ivan")
    queue_plan(page, "back")
    authenticate(page, stack.code("ivan"))
    expect(page.get_by_text("This apply needs a code")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Changes")).to_be_visible()
    expect(page.locator("table.runs")).to_contain_text("Awaiting authentication")
    page.go_forward()
    expect(page.get_by_text("This apply needs a code")).to_be_visible()
    expect(token(page)).to_have_value("")
    authenticate(page, stack.code("ivan"))
    expect_status(page, "Applied")
    page.get_by_role("link", name="Runs", exact=True).click()
    page.go_back()
    expect_status(page, "Applied")
    expect(token(page)).to_have_count(0)
    assert stack.session_calls("ivan") == ["ok", "ok"]


def test_a_session_that_ends_while_the_page_polls_leads_to_the_sign_in_page(
    visit: Visit, stack: Stack, watch: Watch
) -> None:
    watch.expect("the server responded with a status of 401")
    page = visit("", "/login")
    sign_in(page, "judy", stack.passwords["judy"])
    queue_plan(page, "expiry")
    expect(token(page)).to_be_visible()
    run = page.url
    page.context.clear_cookies()
    expect(page).to_have_url(re.compile(r"/login"))
    expect(page.get_by_label("User name")).to_be_visible()
    expect(page.locator("#status")).to_have_count(0)
    sign_in_here(page, "judy", stack.passwords["judy"])
    expect(page).to_have_url(run)


def sign_in_here(page: Page, person: str, password: str) -> None:
    """Sign in where one was led to."""
    page.get_by_label("User name").fill(person)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_an_upload_that_is_refused_says_why_on_its_field(visit: Visit, watch: Watch) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("judy", address("uploads"))
    _upload(page, "main.tf", b'resource "terraform_data" "one" {}\n')
    expect(page.locator("#archive-error")).to_have_text("The file is neither a .tar.gz nor a .zip archive.")
    expect(page.get_by_label("Archive")).to_have_attribute("aria-invalid", "true")
    _upload(page, "linked.tar.gz", _with_a_link())
    expect(page.locator("#archive-error")).to_contain_text("link")
    expect(page.get_by_text("No runs yet.")).to_be_visible()
    _upload(page, "good.tar.gz", cast.archive('resource "terraform_data" "one" {}\n').getvalue())
    expect_status(page, "Awaiting confirmation")


def _upload(page: Page, name: str, content: bytes) -> None:
    page.get_by_label("Archive").set_input_files({"name": name, "mimeType": "", "buffer": content})
    page.get_by_role("button", name="Upload as v1 and queue a plan").click()


def _with_a_link() -> bytes:
    packed = io.BytesIO(cast.archive('resource "terraform_data" "one" {}\n').getvalue())
    linked = io.BytesIO()
    with tarfile.open(fileobj=packed) as plain, tarfile.open(fileobj=linked, mode="w:gz") as tar:
        for entry in plain:
            tar.addfile(entry, plain.extractfile(entry))
        link = tarfile.TarInfo("passwords.tf")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return linked.getvalue()
