"""Errors reach the reader: as pages, and as notices where htmx asked for a part of one."""

from __future__ import annotations

import html
import json
import re

import pytest
from flask import Flask

from blueprints import errors
from services import run_pages
from tests import factories
from tests.factories import World
from tests.support.client import Client

HTMX = {"HX-Request": "true"}


def swaps(page: str, status: int) -> bool:
    """What htmx does with an answer, by the settings of the page: the first pattern that matches counts."""
    settings = json.loads(html.unescape(page.split('name="htmx-config" content=\'')[1].split("'>")[0]))
    for rule in settings["responseHandling"]:
        if re.fullmatch(rule["code"], str(status)):
            return bool(rule["swap"])
    return False


@pytest.mark.parametrize("status", [*errors._SENTENCES, 502, 504])
def test_no_error_is_kept_from_the_reader(alice: Client, world: World, status: int) -> None:
    assert swaps(alice.get(world.home).get_data(as_text=True), status)


def test_an_empty_answer_changes_nothing(alice: Client, world: World) -> None:
    page = alice.get(world.home).get_data(as_text=True)
    assert not swaps(page, 204) and swaps(page, 200)


def test_what_is_gone_is_a_notice_with_a_sentence(alice: Client, world: World) -> None:
    answer = alice.submit(f"{world.path}/changes/runs/9/confirm", headers=HTMX)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 404 and "<html" not in page
    assert "It may be deleted" in page and 'role="alert"' in page
    assert answer.headers["HX-Retarget"] == "#notices" and answer.headers["HX-Reswap"] == "innerHTML show:top"


def test_a_form_of_a_page_from_before_the_sign_out_leads_to_sign_in(alice: Client, world: World) -> None:
    shown = f"http://localhost{world.path}/settings"
    alice.submit("/logout")
    for submit in (alice.post, alice.submit):  # the token is gone with the session, or a newer one is there
        answer = submit(f"{world.path}/settings", headers={"Referer": shown})
        assert answer.status_code == 302 and answer.location == f"/login?next={world.path}/settings"
        page = alice.get(answer.location).get_data(as_text=True)
        assert page.count("You are signed out. Nothing was changed.") == 1
        answer = submit(f"{world.path}/changes/runs/1/confirm", headers=HTMX | {"HX-Current-URL": shown})
        assert answer.status_code == 401 and answer.headers["HX-Redirect"] == f"/login?next={world.path}/settings"
        assert "You are signed out. Nothing was changed." in alice.get("/login").get_data(as_text=True)


def test_a_form_that_is_too_old_says_how_to_get_a_new_one(alice: Client, anonymous: Client, world: World) -> None:
    page = alice.post(f"{world.path}/settings").get_data(as_text=True)
    assert "Nothing was changed; go back, reload the page and try again." in page
    page = alice.post(f"{world.path}/changes/runs/1/confirm", headers=HTMX).get_data(as_text=True)
    assert "Nothing was changed; reload the page and try again." in page
    # Nobody has to be signed in for these, so that is not what was wrong.
    assert "too old" in anonymous.post("/login").get_data(as_text=True)


@pytest.mark.parametrize(
    ("origin", "shown", "leads"),
    [
        ("http://localhost", "/settings?panel=lock", True),
        ("http://localhost", "/settings/lock", False),  # a refused form's own address, which takes forms only
        ("http://elsewhere.example", "/settings", False),
        ("http://localhost//x", "/settings", False),
    ],
)
def test_a_refused_form_leads_back_to_its_page(
    alice: Client, world: World, origin: str, shown: str, leads: bool
) -> None:
    """Another tab was faster, say: what is so now is on the page that sent the form."""
    headers = {"Referer": f"{origin}{world.path}{shown}"}
    answer = alice.submit(f"{world.path}/settings/go-on", {"run": "1"}, headers=headers)
    page = answer.get_data(as_text=True).split('<main id="main"')[1]
    assert answer.status_code == 409
    assert re.findall(r'class="button[^"]*" href="([^"]*)"', page) == [
        *([f"{world.path}{shown}"] if leads else []),
        "/",
    ]
    answer = alice.get(f"{world.path}/nowhere", headers=headers)
    assert f'href="{world.path}{shown}"' not in answer.get_data(as_text=True), "a page that is not there sent no form"


def test_a_poll_that_is_refused_does_not_scroll_the_page(alice: Client, world: World) -> None:
    answer = alice.get(f"{world.path}/changes/runs/9/status", headers=HTMX)
    assert answer.status_code == 404 and answer.headers["HX-Reswap"] == "innerHTML"


def test_a_fault_is_a_notice_with_the_number_of_the_request(
    app: Flask, alice: Client, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with app.app_context():
        factories.run(factories.environment())
    monkeypatch.setitem(app.config, "PROPAGATE_EXCEPTIONS", False)
    monkeypatch.setattr(run_pages, "attempts", lambda _run: 1 / 0)
    answer = alice.submit(f"{world.path}/changes/runs/1/cancel", headers=HTMX)
    page = answer.get_data(as_text=True)
    number = re.search(r"as request ([0-9a-f]{8})", page)
    assert answer.status_code == 500 and number is not None and f"request {number[1]}" in caplog.text
    assert answer.headers["HX-Retarget"] == "#notices"
