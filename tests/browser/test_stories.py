"""The three stories of the specification, and its chapter on AssumeRole, as a person does them."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser import runs
from tests.browser.conftest import ARTIFACTS, Visit
from tests.browser.runs import authenticate, expect_red_lock, expect_status, queue_plan, token
from tests.browser.stack import Stack
from tests.browser.watch import Watch

pytestmark = pytest.mark.browser

LEVELS = ["never", "applies only", "plans and applies"]
THREE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_MFA_SERIAL_NUMBER")


def test_setting_up(visit: Visit, stack: Stack) -> None:
    identity = stack.identity("nora")
    page = visit("nora", "/settings/organization_variables")
    expect(page.get_by_text("No: 3 variables missing")).to_be_visible()
    # The secret is as good as any here: nothing is sent to AWS.
    values = (identity["access_key_id"], "A" * 40, identity["mfa_serial"])
    for name, value in zip(THREE, values, strict=True):
        shared = page.locator("#shared")
        shared.get_by_text("Add a variable").click()
        shared.get_by_label("Name", exact=True).fill(name)
        shared.get_by_label("Value", exact=True).fill(value)
        shared.get_by_role("button", name="Save variable").click()
        expect(shared.get_by_role("cell", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("Yes, for runs that you initiate")).to_be_visible()
    expect(page.get_by_text(f"Your runs ask for a code from {identity['mfa_serial']}")).to_be_visible()
    assert "A" * 40 not in page.content()

    page.goto("/terraform/northwind/environments/new")
    page.get_by_label("Name", exact=True).fill("network")
    page.get_by_role("button", name="Make environment").click()
    expect(page.get_by_role("heading", name="No configuration yet")).to_be_visible()
    page.goto("/terraform/northwind/environments/network/settings")
    levels = page.get_by_label("AWS Multi-Factor Authentication", exact=True)
    assert levels.locator("option").all_inner_texts() == LEVELS
    expect(levels).to_have_value("never")
    levels.select_option("applies only")
    page.get_by_role("button", name="Save settings").click()
    expect(page.locator("#notices")).to_contain_text("aved")
    expect(page.get_by_text("MFA: applies only")).to_be_visible()
    expect(levels).to_have_value("applies only")
    _only_with_access(visit)
    page.get_by_role("link", name="Access", exact=True).click()
    page.get_by_label("To", exact=True).select_option("otto")
    page.get_by_role("button", name="Give access").click()
    expect(page.locator("#notices")).to_contain_text("otto has write access now")
    _only_owners(visit)


def _only_with_access(visit: Visit) -> None:
    page = visit("otto", "/terraform/northwind")
    expect(page.get_by_text("There is no environment here that you have access to.")).to_be_visible()
    expect(page.get_by_role("link", name="network")).to_have_count(0)


def _only_owners(visit: Visit) -> None:
    page = visit("otto", "/terraform/northwind/environments/network/settings")
    expect(
        page.get_by_text("Only admins of network and owners of northwind can change these settings.")
    ).to_be_visible()
    setting = page.locator(".setting", has_text="AWS Multi-Factor Authentication")
    expect(setting).to_contain_text("applies only")
    expect(page.locator("select")).to_have_count(0)
    expect(page.get_by_role("button", name="Save settings")).to_have_count(0)


def test_applies_only(visit: Visit, stack: Stack, watch: Watch) -> None:
    watch.expect("the server responded with a status of 422")
    page = visit("alice")
    queue_plan(page, "story-applies-only")
    # No code is asked for the plan.
    expect(token(page)).to_have_count(0)
    expect_status(page, "Awaiting authentication")
    expect(page.locator("#plan-log")).to_contain_text("3 to add")

    # Any error in submitting: the lock turns red, and an error appears.
    stack.switch(throttle={"calls": 1})
    authenticate(page, stack.code("alice"))
    expect_status(page, "Authentication failed")
    expect_red_lock(page)
    expect(page.get_by_role("alert")).to_contain_text("AWS is busy")

    authenticate(page, stack.code("alice"))
    expect(page.get_by_text("Authenticated with MFA by alice").first).to_be_visible()
    expect_status(page, "Applied")
    expect(runs.status(page).locator(".status-authenticated")).to_have_text("Authenticated with MFA by alice")
    expect(page.locator("#apply-log")).to_contain_text("Apply complete! Resources: 3 added, 0 changed, 0 destroyed.")
    assert runs.log_lines(page, "apply")[0] == "Authenticated with MFA by alice"


def test_plans_and_applies(visit: Visit, stack: Stack) -> None:
    page = visit("alice")
    queue_plan(page, "story-both")
    expect_status(page, "Awaiting authentication")
    expect(page.get_by_text("Nothing is queued yet")).to_be_visible()
    expect(page.locator("#plan-log")).to_have_count(0)
    authenticate(page, stack.code("alice"))
    expect(page.locator("#plan-lines li").first).to_contain_text("Authenticated with MFA by alice")
    expect(page.locator("#plan-log")).to_contain_text("Plan: 3 to add")

    expect(page.get_by_text("This apply needs a code from an AWS MFA device.")).to_be_visible()
    expect(page.locator("#apply-log")).to_have_count(0)
    authenticate(page, stack.code("alice"))
    expect(page.locator("#apply-lines li").first).to_contain_text("Authenticated with MFA by alice")
    expect_status(page, "Applied")
    assert stack.session_calls("alice")[-2:] == ["ok", "ok"]


@pytest.mark.aws
def test_assume_role(visit: Visit, stack: Stack) -> None:
    page = visit("alice")
    assert "acme-production" not in stack.buckets()
    queue_plan(page, "production")
    authenticate(page, stack.code("alice"))
    expect(page.get_by_text("This apply needs a code from an AWS MFA device.")).to_be_visible(timeout=120_000)
    expect(page.locator("#plan-card")).to_contain_text("aws_s3_bucket.this", timeout=60_000)
    # The picture in the README: `make picture`.
    ARTIFACTS.mkdir(exist_ok=True)
    gate = page.locator("#gate").bounding_box()
    assert gate
    page.screenshot(
        path=ARTIFACTS / "run-page.png",
        full_page=True,
        clip={"x": 0, "y": 0, "width": 1280, "height": gate["y"] + gate["height"] + 24},
        caret="initial",
    )
    authenticate(page, stack.code("alice"))
    expect(page.locator("#status")).to_contain_text("Applied", timeout=120_000)
    expect(page.get_by_text("Authenticated with MFA by alice").first).to_be_visible()
    assert "acme-production" in stack.buckets()
