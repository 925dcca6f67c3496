"""Each route as everybody of the access table, with tokens, with the numbers of another organization's things, and
each POST without a form token.
"""

from __future__ import annotations

from string import Formatter
from typing import Any

import pytest
from flask import Flask

from models import TokenScope
from services import tokens
from tests import factories
from tests.conftest import KEPT
from tests.factories import World, make_world
from tests.support.client import Client
from tests.support.keepsake import Keepsake
from tests.web.access_runs import RUNS
from tests.web.access_table import API, PAGES, PEOPLE, PERSONAL, SIGN_IN, TOKENS, Row, abroad, furnish

FORMS = PAGES + RUNS
TABLE = FORMS + API


def test_every_route_is_in_the_table(app: Flask) -> None:
    routes = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    rows = [(row.method, row.rule) for row in TABLE]
    assert sorted(rows) == sorted(routes)


GETS = [row for row in TABLE if row.method == "GET"]
#: Each of these changes something for those who may.
OTHERS = [row for row in TABLE + PERSONAL if row.method != "GET"]


def _refused(row: Row, who: str) -> bool:
    return row.of(who) in (403, 404) or (who == "anonymous" and row.of(who) == SIGN_IN)


def _worlds(row: Row) -> list[tuple[Row, tuple[str, ...]]]:
    """The refused share a world, because they leave nothing behind: who may least first. Others have their own."""
    refused = tuple(who for who in reversed(PEOPLE) if _refused(row, who))
    return [(row, group) for group in (refused, *((who,) for who in PEOPLE if who not in refused)) if group]


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """The furnished world, made by the first test that asks for it."""
    return {}


@pytest.fixture
def world(app: Flask, kept: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> World:
    """As everywhere, and furnished. Making it takes longer than all that a test does in it."""
    home = app.config["LOCKSTEP"].home
    with app.app_context():
        if kept:
            kept["keepsake"].put_back(home)
        else:
            kept["world"] = make_world(app)
            kept["names"] = furnish(app)
            kept["keepsake"] = Keepsake.taken(home, tmp_path_factory.mktemp("kept") / "files", KEPT)
    return kept["world"]


@pytest.fixture
def names(world: World, kept: dict[str, Any]) -> dict[str, Any]:
    """What the addresses of the table name."""
    return dict(kept["names"])


def _address(app: Flask, row: Row, names: dict[str, Any]) -> str:
    if "unlock" in row.address:
        with app.app_context():
            factories.environment("shelf", state_lock_id="a-lock", state_lock_by_id=factories.person("alice").id)
    return row.address.format(**names)


def _ask(app: Flask, row: Row, address: str, person: str | None, token: str | None = None) -> int:
    client = app.test_client()
    assert isinstance(client, Client)
    if person:
        client.sign_in(person)
    options: dict[str, Any] = {"auth": ("alice", token)} if token else {}
    if row.method == "POST":
        answer = client.submit(address, dict(row.data), **options)
    else:
        answer = client.open(address, method=row.method, **options)
    if person is None and answer.status_code == SIGN_IN:
        assert answer.location.startswith("/login")
    answer.close()  # of a file
    return answer.status_code


@pytest.mark.parametrize("row", GETS, ids=str)
def test_what_a_page_answers_to_each(app: Flask, names: dict[str, Any], row: Row) -> None:
    address = _address(app, row, names)
    found = {who: _ask(app, row, address, name) for who, name in PEOPLE.items()}
    assert found == {who: row.of(who) for who in PEOPLE}


@pytest.mark.parametrize(
    ("row", "whose"),
    [pytest.param(*world, id=f"{world[0]} by {', '.join(world[1])}") for row in OTHERS for world in _worlds(row)],
)
def test_what_an_action_answers_to_each(app: Flask, names: dict[str, Any], row: Row, whose: tuple[str, ...]) -> None:
    address = _address(app, row, names)
    assert {who: _ask(app, row, address, PEOPLE[who]) for who in whose} == {who: row.of(who) for who in whose}


@pytest.mark.parametrize("row", FORMS, ids=str)
def test_an_owners_token_opens_no_page_and_does_nothing_there(app: Flask, names: dict[str, Any], row: Row) -> None:
    """Above all it authenticates nothing, confirms nothing and leaves the level alone."""
    address = _address(app, row, names)
    with app.app_context():
        text = tokens.create(factories.person("alice"), "all", TokenScope.QUEUE, None)[1]
    assert _ask(app, row, address, None, text) == row.of("anonymous")


@pytest.mark.parametrize("scope", list(TokenScope))
@pytest.mark.parametrize("row", TOKENS, ids=lambda row: f"{row[0]} {row[1]}")
@pytest.mark.usefixtures("world")
def test_what_the_api_answers_to_tokens(
    app: Flask, row: tuple[str, str, bytes, tuple[int, ...], tuple[int, ...]], scope: TokenScope
) -> None:
    method, address, body, of_queue, of_read = row
    people = [name for name in PEOPLE.values() if name]
    found: list[int] = []
    for name in reversed(people):  # who may least first: they leave nothing behind
        with app.app_context():
            text = tokens.create(factories.person(name), "api", scope, None)[1]
        answer = app.test_client().open(address, method=method, data=body, auth=(name, text))
        found.insert(0, answer.status_code)
        with app.app_context():
            factories.environment("shelf", state_lock_id=None)
    assert dict(zip(people, found, strict=True)) == dict(
        zip(people, of_queue if scope is TokenScope.QUEUE else of_read, strict=True)
    )


def test_every_route_of_the_api_is_tried_with_tokens() -> None:
    assert len(TOKENS) == len(API)


def test_an_owners_token_reaches_nothing_of_another_organization(app: Flask, world: World) -> None:
    theirs = abroad(app)
    with app.app_context():
        text = tokens.create(factories.person("alice"), "all", TokenScope.QUEUE, None)[1]
    for method, address, body, _, _ in TOKENS:
        there = address.replace("shelf/1", f"abroad/{theirs['run']}").replace("shelf", "abroad")
        for tried in (there, there.replace("acme", "other")):
            answer = app.test_client().open(tried, method=method, data=body, auth=("alice", text))
            assert answer.status_code == (403 if "/states" in tried else 404), (method, tried)


POINTING = [row for row in TABLE + PERSONAL if "{" in row.address or "/environments/" in row.address]


@pytest.mark.parametrize("row", POINTING, ids=str)
def test_an_owner_reaches_nothing_of_another_organization(
    app: Flask, alice: Client, names: dict[str, Any], row: Row
) -> None:
    address, theirs = _address(app, row, names), abroad(app)
    tried = [
        row.address.format(**(names | {name: theirs[name]}))
        for name in (part[1] for part in Formatter().parse(row.address))
        if name
    ]
    environments = [name for name in ("network", "shelf", "locked") if f"environments/{name}" in address]
    tried += [address.replace(name, "abroad") for name in environments]
    for address in tried:
        answer = alice.submit(address, dict(row.data)) if row.method == "POST" else alice.get(address)
        assert answer.status_code == 404, address


@pytest.mark.parametrize("row", [row for row in FORMS if row.method == "POST"], ids=str)
def test_no_post_without_a_form_token(app: Flask, alice: Client, names: dict[str, Any], row: Row) -> None:
    address = _address(app, row, names)
    answer = alice.post(address, data=dict(row.data))
    assert answer.status_code == 400
    assert "Nothing was changed" in answer.get_data(as_text=True)


def test_a_missing_thing_and_a_forbidden_one_look_the_same(carol: Client, world: World) -> None:
    forbidden = carol.get(world.path + "/variables").get_data(as_text=True)
    missing = carol.get(world.path.replace("network", "nothing") + "/variables").get_data(as_text=True)
    assert _without_request(forbidden).replace("network", "nothing") == _without_request(missing)


def _without_request(page: str) -> str:
    lines = page.splitlines()
    return "\n".join(line for line in lines if "request <code>" not in line and "csrf" not in line.lower())
