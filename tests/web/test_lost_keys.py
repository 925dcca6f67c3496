"""When the file with the encryption keys is lost, pages say so and what to do, and new values can be set."""

from __future__ import annotations

import dataclasses
import os

import pytest
from flask import Flask

from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from policy.permissions import Role
from services import second_factor
from services.storage.vault import Vault
from tests import factories
from tests.factories import PASSWORD, World
from tests.support.authenticator import code, enrol, key_on
from tests.support.client import Client, form_in
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
        factories.member("alice", "empty", Role.OWNER)
        factories.variable("AWS_REGION", "eu-west-1", organization_name="empty")
    lose_keys(app, monkeypatch)


def lose_keys(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_an_action_that_needs_a_value_that_does_not_open(alice: Client, world: World) -> None:
    for headers in ({}, HTMX):
        answer = alice.submit(f"{world.path}/changes/runs/2/authenticate", {"token": "123456"}, headers=headers)
        page = answer.get_data(as_text=True)
        assert answer.status_code == 500
        assert "cannot be read" in page and "Nothing was changed" in page and "encryption_keys" in page
        assert "fault of Lockstep" not in page
    assert answer.headers["HX-Retarget"] == "#notices"


@pytest.mark.usefixtures("lost")
def test_the_settings_open_with_all_their_forms(alice: Client, bob: Client, world: World) -> None:
    answer = alice.get(f"{world.path}/settings")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert 'id="mfa_level"' in page and f'action="{world.path}/settings/lock"' in page
    assert "cannot be read" in page and "encryption_keys" in page
    assert "variables are set" not in page and "Not set for runs" not in page
    for_bob = bob.get(f"{world.path}/settings")
    assert for_bob.status_code == 200 and "cannot be read" in for_bob.get_data(as_text=True)


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("level", MfaLevel)
def test_a_saved_level_is_said_to_be_saved(app: Flask, alice: Client, world: World, level: MfaLevel) -> None:
    """Whether the code of this person can be checked is another matter, which a level "never" does not ask."""
    there = f"{world.path}/settings"
    shown = form_in(alice.get(there).get_data(as_text=True), there)
    answer = alice.submit(there, shown | {"mfa_level": level.value})
    assert answer.status_code == 303
    page = alice.get(answer.headers["Location"]).get_data(as_text=True)
    assert "Settings saved." in page and "Nothing was changed" not in page
    assert ("no code can be checked yet, because a stored value cannot be read" in page) is (
        level is not MfaLevel.NEVER
    )
    with app.app_context():
        assert factories.environment().mfa_level is level


@pytest.mark.usefixtures("lost")
def test_the_manual_lock_works_all_the_same(alice: Client, world: World) -> None:
    refused = alice.submit(f"{world.path}/settings/lock", {"reason": ""})
    assert refused.status_code == 422 and 'name="reason"' in refused.get_data(as_text=True)
    assert alice.submit(f"{world.path}/settings/lock", {"reason": "keys are lost"}).status_code == 303
    page = alice.get(f"{world.path}/settings").get_data(as_text=True)
    assert "keys are lost" in page
    unlock = f"{world.path}/settings/unlock"
    assert alice.submit(unlock, form_in(page, unlock)).status_code == 303


@pytest.mark.usefixtures("lost")
def test_the_first_steps_open_and_say_that_it_is_not_known(alice: Client) -> None:
    answer = alice.get("/terraform/empty")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "cannot be read" in page and "encryption_keys" in page and "Set for your runs" not in page
    assert "/settings/organization_variables?organization=empty" in page and "/environments/new" in page


@pytest.mark.usefixtures("lost")
def test_the_panels_mark_each_value_that_does_not_open(alice: Client, world: World) -> None:
    for path, count in ((f"{SHARED}?organization=acme", 4), (f"{world.path}/variables", 5)):
        answer = alice.get(path)
        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert page.count('<span class="mark mark-bad unreadable">') == count  # the secret key, too
    assert "cannot be read" in page


@pytest.mark.usefixtures("lost")
def test_what_comes_from_the_organization_is_not_folded_away(alice: Client, world: World) -> None:
    page = alice.get(f"{world.path}/variables").get_data(as_text=True)
    card = page.split("From the organization")[0].rpartition("<details")[2]
    assert " open>" in card and "4 variables, 4 cannot be read" in page


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
    save = f"{SHARED}/acme/shared/{number}"
    alice.submit(save, {**form_in(form, f"{save}#variable-{number}"), "value": "eu-2"})
    page = alice.get(f"{SHARED}?organization=acme").get_data(as_text=True)
    assert page.count("mark-bad unreadable") == 3 and "eu-2" in page


@pytest.mark.usefixtures("lost")
def test_a_run_that_waits_says_why_no_code_is_asked(alice: Client, bob: Client, world: World) -> None:
    for client in (alice, bob):
        answer = client.get(f"{world.path}/changes/runs/2")
        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert "cannot be read" in page and 'id="token"' not in page and "Discard" in page


@pytest.mark.usefixtures("world")
def test_a_second_factor_that_does_not_open_lets_recovery_codes_in_and_nothing_else(
    app: Flask, anonymous: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, codes = enrol(app, "alice")
    lose_keys(app, monkeypatch)
    anonymous.submit("/login", {"username": "alice", "password": PASSWORD})
    for typed in (code(device), "", "aaaaa-aaaaa"):
        answer = anonymous.submit("/login/code", {"code": typed})
        page = answer.get_data(as_text=True)
        assert answer.status_code == 422
        assert "cannot be checked: the key that its secret was encrypted with is gone" in page
        assert "recovery codes" in page and "ask an owner" in page and "Nothing was changed" in page
        assert anonymous.get("/settings/second-factor").status_code == 302, "signed in"
    assert anonymous.submit("/login/code", {"code": codes[0]}).status_code == 303
    assert "9 recovery codes left" in anonymous.get("/settings/second-factor").get_data(as_text=True)
    refused = anonymous.submit("/settings/second-factor/off", {"password": PASSWORD, "code": code(device)})
    assert refused.status_code == 422 and "cannot be checked" in refused.get_data(as_text=True)
    # With another one it is set up anew.
    assert anonymous.submit("/settings/second-factor/off", {"password": PASSWORD, "code": codes[1]}).status_code == 303
    anonymous.submit("/settings/second-factor/begin")
    anew = key_on(anonymous)
    assert anonymous.submit("/settings/second-factor/confirm", {"code": code(anew)}).status_code == 201


@pytest.mark.usefixtures("world")
def test_a_waiting_second_factor_that_does_not_open_is_begun_anew(
    app: Flask, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.submit("/settings/second-factor/begin")
    device = key_on(alice)
    lose_keys(app, monkeypatch)
    answer = alice.get("/settings/second-factor")
    assert answer.status_code == 200 and "Set it up" in answer.get_data(as_text=True)
    assert alice.submit("/settings/second-factor/confirm", {"code": code(device)}).status_code == 422
    with app.app_context():
        assert second_factor.unreadable() == [], "it was never asked for"
        assert factories.person("alice").totp_at is None
    alice.submit("/settings/second-factor/begin")
    assert alice.submit("/settings/second-factor/confirm", {"code": code(key_on(alice))}).status_code == 201
