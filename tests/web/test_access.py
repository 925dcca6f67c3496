"""Each route × {owner, member, stranger, anonymous}, and each POST without a form token."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.factories import World
from tests.support.client import Client
from tests.web.access_runs import RUNS
from tests.web.access_table import API, PAGES, PERSONAL, SIGN_IN, Row, furnish

PEOPLE = ("alice", "bob", "carol", None)
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


@pytest.mark.parametrize("person", PEOPLE, ids=["owner", "member", "stranger", "anonymous"])
@pytest.mark.parametrize("row", TABLE + PERSONAL, ids=str)
@pytest.mark.usefixtures("world")
def test_answer(app: Flask, row: Row, person: str | None) -> None:
    address = row.address.format(**furnish(app, row.address))
    client = app.test_client()
    assert isinstance(client, Client)
    if person:
        client.sign_in(person)
    posts = row.method == "POST"
    answer = client.submit(address, dict(row.data)) if posts else client.open(address, method=row.method)
    expected = row.answers[PEOPLE.index(person)]
    assert answer.status_code == expected, answer.get_data(as_text=True)
    if person is None and expected == SIGN_IN:
        assert answer.location.startswith("/login")
    answer.close()  # of a file


@pytest.mark.parametrize("row", [row for row in FORMS if row.method == "POST"], ids=str)
def test_no_post_without_a_form_token(app: Flask, alice: Client, row: Row) -> None:
    address = row.address.format(**furnish(app, row.address))
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
