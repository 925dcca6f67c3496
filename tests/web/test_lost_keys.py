"""When the file with the encryption keys is lost, pages say so and what to do, and new values can be set."""

from __future__ import annotations

import dataclasses
import os

import pytest
from flask import Flask

from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services.storage.vault import Vault
from tests import factories
from tests.factories import World
from tests.support.client import Client
from tests.web import run_stories as stories

SHARED = "/settings/organization_variables"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def lost(app: Flask, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored so far does not open any more."""
    with app.app_context():
        stories.keys_for("alice")
        factories.variable("REGION_OF_ALL", "eu-1")
        factories.variable("region", "eu-1", of=factories.environment())
        here = factories.environment(mfa_level=MfaLevel.APPLIES_ONLY)
        stories.story(here, RunStatus.APPLIED)
        stories.story(here, RunStatus.AWAITING_APPLY_AUTHENTICATION)
    other = dataclasses.replace(app.config["LOCKSTEP"], vault=Vault([os.urandom(32)]))
    monkeypatch.setitem(app.config, "LOCKSTEP", other)


@pytest.mark.usefixtures("lost")
def test_a_state_that_does_not_open(alice: Client, world: World) -> None:
    answer = alice.get(f"{world.path}/states/1")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 500
    assert "cannot be read" in page and "Nothing was changed" in page and "encryption_keys" in page
    assert "fault of Lockstep" not in page


@pytest.mark.usefixtures("lost")
def test_a_page_that_needs_a_value_that_does_not_open(alice: Client, world: World) -> None:
    answer = alice.get(f"{world.path}/settings")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 500
    assert "cannot be read" in page and "Nothing was changed" in page and "encryption_keys" in page
    assert "fault of Lockstep" not in page and f"{SHARED}?organization=acme" in page
    fragment = alice.submit(f"{world.path}/changes/runs/2/authenticate", {"token": "123456"}, headers=HTMX)
    assert fragment.status_code == 500 and fragment.headers["HX-Retarget"] == "#notices"
    assert "encryption_keys" in fragment.get_data(as_text=True)


@pytest.mark.usefixtures("lost")
def test_the_panels_mark_each_value_that_does_not_open(alice: Client, world: World) -> None:
    for path, count in ((f"{SHARED}?organization=acme", 4), (f"{world.path}/variables", 5)):
        answer = alice.get(path)
        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert page.count('<span class="mark mark-bad unreadable">') == count  # the secret key, too
    assert "cannot be read" in page


@pytest.mark.usefixtures("lost")
def test_the_check_list_says_that_it_does_not_know(alice: Client, world: World) -> None:
    page = alice.get(f"{SHARED}?organization=acme").get_data(as_text=True)
    card = page.split('id="mfa-heading"')[1].split("</section>")[0]
    assert "cannot be read" in card and "encryption_keys" in card and "Yes, for runs" not in card


@pytest.mark.usefixtures("lost")
def test_a_new_value_takes_the_place_of_one_that_does_not_open(alice: Client, world: World) -> None:
    page = alice.get(f"{SHARED}?organization=acme").get_data(as_text=True)
    number = int(page.split("REGION_OF_ALL")[0].rpartition('id="variable-')[2].partition('"')[0])
    form = alice.get(f"{SHARED}?organization=acme&edit={number}").get_data(as_text=True)
    assert "The stored value cannot be read; a new one takes its place." in form
    alice.submit(f"{SHARED}/acme/shared/{number}", {"value": "eu-2"})
    page = alice.get(f"{SHARED}?organization=acme").get_data(as_text=True)
    assert page.count("mark-bad unreadable") == 3 and "eu-2" in page


@pytest.mark.usefixtures("lost")
def test_a_run_that_waits_says_why_no_code_is_asked(alice: Client, bob: Client, world: World) -> None:
    for client in (alice, bob):
        answer = client.get(f"{world.path}/changes/runs/2")
        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert "cannot be read" in page and 'id="token"' not in page and "Discard" in page
