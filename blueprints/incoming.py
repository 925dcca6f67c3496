"""What requests are before any view sees them: how large, and what is no form or no address at all."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import flask
from flask import current_app, session
from flask_login import decode_cookie
from htmx_flask.requests import HtmxAwareRequest
from werkzeug.exceptions import BadRequest, HTTPException
from werkzeug.routing import IntegerConverter, Map

#: Numbers in addresses and parameters fit what PostgreSQL and SQLite take for a number of a thing.
MOST = 2**31 - 1
#: Bytes of a request of somebody who is not signed in: the forms there are small.
STRANGERS = 64 * 1024


class Request(HtmxAwareRequest):
    """Forms as a browser sends them.

    A multipart part without a name is refused: nothing behind expects one. JSON in place of a form counts for nothing:
    Flask-WTF would read it, lists and however deep they are.
    """

    is_json = False

    def _load_form_data(self) -> None:
        super()._load_form_data()
        if None in self.form or None in self.files:
            raise BadRequest


class Number(IntegerConverter):
    """A number in an address; a larger one leads nowhere."""

    def __init__(self, map: Map, *args: Any, **options: Any) -> None:
        super().__init__(map, *args, **({"max": MOST} | options))


def whole(text: str) -> int:
    """A parameter that is a number of a thing. Raises ValueError for anything else, as ``type=`` of a form wants it."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > MOST:
        raise ValueError(text)
    return int(text)


def split(address: str) -> SplitResult:
    """The parts of an address that a browser, or somebody else, sent; those of "" for none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def page_shown() -> str | None:
    """The page whose form, part or file is asked for, as the browser says: its path and query, on this site.

    None for another site's, or for none. Nor is there one where a refused form was answered in place, at an address
    that takes forms only, or that a browser would be led on from.
    """
    request = flask.request
    shown = split(request.headers.get("HX-Current-URL") or request.referrer or "")
    there = current_app.create_url_adapter(request)
    if shown.netloc != request.host or there is None:
        return None
    try:
        there.match(unquote(shown.path), "GET")
    except HTTPException:
        return None
    return urlunsplit(("", "", shown.path, shown.query, ""))


def bound() -> None:
    """Before the body is read, for whom nobody is signed in: cookies are enough, no look into the database.

    A token makes room where it is looked up (blueprints/api_states.py): a header alone is anybody's to send.
    """
    request = flask.request
    remembered = request.cookies.get(current_app.config["REMEMBER_COOKIE_NAME"], "")
    if "_user_id" not in session and decode_cookie(remembered) is None:
        request.max_content_length = STRANGERS
