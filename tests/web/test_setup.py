"""The first owner of an empty installation."""

from __future__ import annotations

import pytest
from flask import Flask

from services.setup import issue_token
from tests.support.client import Client

FORM = {"name": "dora", "email": "dora@example.com", "password": "a long enough one", "organization": "acme"}


@pytest.fixture
def link(app: Flask) -> str:
    with app.app_context():
        return f"/setup/{issue_token(app.config['LOCKSTEP'].home)}"


def test_makes_the_owner_signs_in_and_shows_the_first_steps(anonymous: Client, link: str) -> None:
    assert anonymous.get(link).status_code == 200
    answer = anonymous.submit(link, FORM)
    assert (answer.status_code, answer.location) == (303, "/terraform/acme")
    page = anonymous.get(answer.location).get_data(as_text=True)
    assert "Three steps lead to the first plan" in page
    assert "/terraform/acme/environments/new" in page
    assert anonymous.get(link).status_code == 404


@pytest.mark.parametrize(
    ("field", "value"), [("name", "Dora"), ("email", "dora"), ("password", "short"), ("organization", "Acme Inc")]
)
def test_refused_at_its_field(anonymous: Client, link: str, field: str, value: str) -> None:
    answer = anonymous.submit(link, FORM | {field: value})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in page
    assert "a long enough one" not in page
    assert 'value="dora@example.com"' in page or field == "email"
    assert anonymous.submit(link, FORM).status_code == 303


@pytest.mark.usefixtures("link")
def test_a_wrong_link_is_nothing(anonymous: Client) -> None:
    assert anonymous.get("/setup/guessed").status_code == 404
