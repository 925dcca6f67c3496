"""Somebody with a browser, as far as the server can tell: forms with their tokens, and the polls of a run's page."""

from __future__ import annotations

import html
import http.client
import re
import time
from urllib.parse import urlencode

from tests import factories

_TOKEN = re.compile(r'name="csrf_token"[^>]* value="([^"]+)"|"X-CSRFToken": ?"([^"]+)"')
_POLL = re.compile(r'<div id="poll"(.*?)</div>', re.DOTALL)
_EVERY = re.compile(r'data-every="([0-9.]+)s"')
_FIELD = re.compile(r'<input type="hidden"(?: id="[a-z-]+")? name="([a-z_]+)" value="([^"]*)"')
_AT = re.compile(r'<input type="hidden" id="(?:plan|apply)-at" name="([a-z_]+)" value="(\d+)"')


class Person:
    """A connection that is kept, with the cookies of somebody who is signed in."""

    agent = "bench"

    def __init__(self, port: int, name: str = "alice") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._cookies: dict[str, str] = {}
        self._token = _token(self.get("/login"))
        status, _, _ = self.ask("POST", "/login", {"username": name, "password": factories.PASSWORD})
        assert status == 303, status
        self._token = _token(self.get("/terraform/acme"))

    @property
    def cookie(self) -> str:
        """The value of the header."""
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def get(self, path: str) -> str:
        """A page, or "" for 204."""
        status, _, text = self.ask("GET", path)
        assert status in (200, 204), (path, status)
        return text

    def timed(self, path: str) -> tuple[float, str]:
        """As :meth:`get`, with the seconds that it took."""
        begun = time.perf_counter()
        text = self.get(path)
        return time.perf_counter() - begun, text

    def post(self, path: str, **data: str) -> str:
        """Press a button: where it leads to."""
        status, place, text = self.ask("POST", path, data)
        assert status == 303, (path, status, text[:500])
        return place

    def ask(self, method: str, path: str, data: dict[str, str] | None = None, **more: str) -> tuple[int, str, str]:
        """Status, where it leads to, and body."""
        headers = {"Cookie": self.cookie, "User-Agent": self.agent, **{k.replace("_", "-"): v for k, v in more.items()}}
        body = None
        if data is not None:
            body = urlencode({"csrf_token": self._token, **data})
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            answer = self._answer(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):  # kept longer than the server keeps it
            self.connection.close()
            answer = self._answer(method, path, body, headers)
        text = answer.read().decode()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self._cookies[key] = rest.partition(";")[0]
        return answer.status, answer.getheader("Location") or "", text

    def _answer(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        self.connection.request(method, path, body, headers)
        return self.connection.getresponse()


#: After a button was pressed the page asks this often, in seconds, for so long (static/log.js: SOON, SOON_FOR).
SOON, SOON_FOR = 0.15, 5.0


class Page:
    """The page of a run: what static/log.js and htmx keep of it, and when they poll."""

    def __init__(self, person: Person, place: str) -> None:
        self._person, self.place = person, place
        self.fields: dict[str, str] = {}
        self.every = 0.0
        self._soon_until = 0.0
        self.text = person.get(place)
        self.absorb(self.text)
        self.asked = time.monotonic()

    def absorb(self, text: str) -> None:
        """Take up what a page or a fragment says about the next poll."""
        poll = _POLL.search(text)
        if poll is not None:
            every = _EVERY.search(poll[1])
            self.every = float(every[1]) if every else 0.0
            self.fields = {name: html.unescape(value) for name, value in _FIELD.findall(poll[1])}
        else:
            self.fields |= dict(_AT.findall(text))

    @property
    def address(self) -> str:
        """What the next poll asks for."""
        return f"{self.place}/status?{urlencode(self.fields)}"

    def poll(self) -> str:
        """One poll now: what it brought."""
        self.asked = time.monotonic()
        text = self._person.get(self.address)
        self.absorb(text)
        return text

    def next_poll(self) -> str:
        """Wait as the page waits, then poll; so long after the last poll, and never at once after an answer."""
        every = min(SOON, self.every) if time.monotonic() < self._soon_until else self.every
        time.sleep(max(self.asked + every - time.monotonic(), 0.05))
        return self.poll()

    def press(self, button: str, **data: str) -> str:
        """As htmx sends a form of the page: what it brought."""
        path = f"{self.place}/{button}"
        status, _, text = self._person.ask("POST", path, {**self.fields, **data}, HX_Request="true")
        assert status == 200, (status, text[:500])
        self.absorb(text)
        self._soon_until = time.monotonic() + SOON_FOR
        return text


def _token(page: str) -> str:
    found = _TOKEN.search(page)
    assert found is not None, page[:500]
    return found[1] or found[2]
