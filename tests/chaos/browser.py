"""A browser without a screen: signs in, reads pages, finds their forms, submits them with their tokens."""

from __future__ import annotations

import http.client
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

#: Longer than a person waits for the busiest database (SQLite's busy time-out is 30 s).
PATIENCE = 45.0
_ROW = re.compile(r"<li\b[^>]*>(.*?)</li>", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What the server answered; ``status`` is 0 where it did not. Times are seconds since the start."""

    began: float
    ended: float
    method: str
    path: str
    status: int
    note: str = ""


@dataclass
class Form:
    """``name`` is the last word of where it goes: confirm, discard, queue …"""

    action: str
    hidden: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return urlsplit(self.action).path.rpartition("/")[2]


@dataclass(frozen=True)
class Page:
    """``forms`` by their names."""

    status: int
    body: str
    forms: dict[str, Form]


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._inside = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        if tag == "form" and found.get("method", "").lower() == "post":
            self.forms.append(Form(found.get("action", "")))
            self._inside = True
        elif tag == "input" and self._inside and found.get("type") == "hidden":
            self.forms[-1].hidden[found.get("name", "")] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "form"


class Browser:
    """One person's. ``now`` gives seconds since the start, ``tell`` takes every answer."""

    def __init__(self, url: str, name: str, password: str, now: Callable[[], float], tell: Callable[[Answer], None]):
        self._address = urlsplit(url).netloc
        self._name, self._password = name, password
        self._now, self._tell = now, tell
        self._cookies: dict[str, str] = {}

    def get(self, path: str) -> Page:
        """A page, signed in."""
        status, headers, body = self._ask("GET", path)
        if status in (302, 303) and "/login" in headers.get("location", ""):
            self.sign_in()
            status, headers, body = self._ask("GET", path)
        return _page(status, body)

    def log(self, path: str) -> str:
        """All lines of a log as the page shows them; ``path`` brings pieces of it."""
        lines: list[str] = []
        while rows := _ROW.findall(self.get(f"{path}?first={len(lines) + 1}&last=1000000000&from=above").body):
            lines += [unescape(re.sub(r"<[^>]*>", "", row)).rstrip("\n") for row in rows]
        return "".join(f"{line}\n" for line in lines)

    def sign_in(self) -> None:
        """Through the form."""
        page = _page(*self._ask("GET", "/login")[::2])
        form = page.forms.get("login")
        if form is not None:
            self.submit(form, username=self._name, password=self._password)

    def submit(self, form: Form, archive: bytes = b"", twice: bool = False, **values: str) -> int:
        """Submit a form; ``twice`` is a double click. Answers the status of the last one."""
        fields = form.hidden | values
        other = None
        if twice:
            other = threading.Thread(target=self._post, args=(form.action, fields, archive), daemon=True)
            other.start()
            time.sleep(0.02)
        status = self._post(form.action, fields, archive)
        if other is not None:
            other.join(PATIENCE)
        return status

    def _post(self, action: str, fields: Mapping[str, str], archive: bytes) -> int:
        if archive:
            boundary = secrets.token_hex(16)
            kind = f"multipart/form-data; boundary={boundary}"
            head = 'Content-Disposition: form-data; name="{}"'.format
            parts = [f"--{boundary}\r\n{head(name)}\r\n\r\n{value}\r\n".encode() for name, value in fields.items()]
            about = f'{head("archive")}; filename="c.tar.gz"\r\nContent-Type: application/gzip'
            parts += [f"--{boundary}\r\n{about}\r\n\r\n".encode(), archive, f"\r\n--{boundary}--\r\n".encode()]
            body = b"".join(parts)
        else:
            kind, body = "application/x-www-form-urlencoded", urlencode(fields).encode()
        status, headers, _ = self._ask("POST", action, body, {"Content-Type": kind})
        if status == 303 and "/settings/sessions/prove" in headers.get("location", ""):
            proof = urlencode({"csrf_token": fields.get("csrf_token", ""), "password": self._password}).encode()
            self._ask("POST", headers["location"], proof, {"Content-Type": "application/x-www-form-urlencoded"})
            status = self._ask("POST", action, body, {"Content-Type": kind})[0]
        return status

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(self._address, timeout=PATIENCE)
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        began, note = self._now(), ""
        try:
            connection.request(method, path, body, {"Cookie": cookies, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            found = {name.lower(): value for name, value in response.getheaders()}
            for cookie in response.headers.get_all("Set-Cookie") or []:
                name, _, value = cookie.partition(";")[0].partition("=")
                self._cookies[name] = value
            status = response.status
            note = " ".join(re.sub(r"<[^>]*>", " ", text.partition("<main")[2]).split())[:300] if status >= 500 else ""
        except (OSError, http.client.HTTPException) as error:
            status, found, text, note = 0, {}, "", type(error).__name__
        finally:
            connection.close()
        self._tell(Answer(began, self._now(), method, path, status, note))
        return status, found, text


def _page(status: int, body: str) -> Page:
    parser = _Forms()
    parser.feed(body)
    return Page(status, body, {form.name: form for form in reversed(parser.forms)})


def text_of(html: str) -> str:
    """What a person reads of a piece of HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())
