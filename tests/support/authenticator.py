"""Somebody's authenticator, in place of a telephone."""

from __future__ import annotations

import re

import pyotp
from flask import Flask

from extensions import db
from services import clock, second_factor
from tests import factories
from tests.support.client import Client


def enrol(app: Flask, name: str) -> tuple[pyotp.TOTP, list[str]]:
    """Give the person a second factor; its codes of before stay unused. Also the recovery codes."""
    with app.app_context():
        user = factories.person(name)
        second_factor.begin(user)
        db.session.refresh(user)
        device = pyotp.TOTP(second_factor.secret(user) or "")
        codes = second_factor.confirm(user, device.at(int(clock.now().timestamp()) - 30))
        return device, codes


def code(device: pyotp.TOTP) -> str:
    """What it shows now."""
    return device.at(int(clock.now().timestamp()))


def key_on(client: Client) -> pyotp.TOTP:
    """The authenticator that was given the key of the page."""
    page = client.get("/settings/second-factor").get_data(as_text=True)
    found = re.search(r"Or type the key: <code>([A-Z2-7 ]+)</code>", page)
    assert found is not None, page
    return pyotp.TOTP(found[1].replace(" ", ""))
