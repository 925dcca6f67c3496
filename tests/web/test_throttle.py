"""What somebody sees who has to wait."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from models import TokenScope
from services import tokens
from tests import factories
from tests.factories import PASSWORD, World
from tests.support.client import Client

pytestmark = pytest.mark.usefixtures("world")


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_the_sign_in_page_tells_how_long_and_keeps_what_was_typed(anonymous: Client, name: str) -> None:
    for _ in range(5):
        assert anonymous.submit("/login", {"username": name, "password": "wrong"}).status_code == 422
    answer = anonymous.submit("/login", {"username": name, "password": PASSWORD})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 429 and 1 <= int(answer.headers["Retry-After"]) <= 3
    assert "Too many failed attempts. This one was not looked at; try again in" in page
    assert f'value="{name}"' in page and PASSWORD not in page


def test_somebody_else_is_not_kept_waiting(app: Flask, anonymous: Client) -> None:
    for _ in range(6):
        anonymous.submit("/login", {"username": "alice", "password": "wrong"})
    other = app.test_client()
    assert isinstance(other, Client)
    other.sign_in("bob")


def test_wrong_tokens_are_slowed_down_by_address_and_good_ones_never(app: Flask, world: World) -> None:
    with app.app_context():
        text = tokens.create(factories.person("alice"), "laptop", TokenScope.READ, None)[1]
    client = app.test_client()

    def ask(password: str) -> TestResponse:
        return client.get("/api/v1/states/acme/network", auth=("alice", password))

    assert {ask("lsp_wrong").status_code for _ in range(20)} == {401}
    answer = ask("lsp_wrong")
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    assert ask(text).status_code == 204
