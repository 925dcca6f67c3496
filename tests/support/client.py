"""A test client that signs in and submits forms the way a browser does, form token included."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.factories import PASSWORD

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"|"X-CSRFToken": "([^"]+)"')
_INPUT = re.compile(r'<input(?=[^>]* name="(\w+)")(?=[^>]* value="([^"]*)")')
_SELECT = re.compile(r'<select[^>]* name="(\w+)"(?:(?!</select>).)*<option selected>([^<]*)', re.DOTALL)


def form_in(page: str, action: str) -> dict[str, str]:
    """What a browser would send to ``action`` from its form in the page if nobody types, but the token, which
    :meth:`Client.submit` brings.
    """
    form = page.partition(f'action="{action}"')[2].partition("</form>")[0]
    assert form, f"no form goes to {action}"
    found = {name: unescape(value) for name, value in _INPUT.findall(form) + _SELECT.findall(form)}
    del found["csrf_token"]
    return found


class Client(FlaskClient):
    """As Flask's, with :meth:`submit` and :meth:`sign_in`."""

    def token(self) -> str:
        """A form token of this client's session."""
        page = super().get("/login", follow_redirects=True).get_data(as_text=True)
        found = _TOKEN.search(page)
        assert found is not None, "no form token on the page"
        return found.group(1) or found.group(2)

    def submit(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> TestResponse:
        """POST a form with its token."""
        return super().post(path, data={"csrf_token": self.token(), **(data or {})}, **options)

    def sign_in(self, name: str, password: str = PASSWORD, **data: Any) -> Client:
        """Sign in through the form."""
        answer = self.submit("/login", {"username": name, "password": password, **data})
        assert answer.status_code == 303, answer.get_data(as_text=True)
        return self
