"""Links by mail, with a real mail server over TLS: invitations, and passwords that were forgotten."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Flask

import config
from services import mail
from tests.support import mail_server
from tests.support.client import Client
from tests.support.mail_server import Postbox

pytestmark = [
    pytest.mark.usefixtures("world"),
    # Said of a server whose whole connection is TLS already.
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),
]

FRESH = "tangerine submarine"


@pytest.fixture(params=["smtps", "smtp+starttls"])
def scheme(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def server(tmp_path: Path, scheme: str) -> Iterator[tuple[int, Postbox, Path]]:
    with mail_server.running(tmp_path, starttls=scheme != "smtps") as found:
        yield found


@pytest.fixture
def postbox(server: tuple[int, Postbox, Path]) -> Postbox:
    return server[1]


@pytest.fixture
def settings(
    tmp_path: Path, redis_url: str, database: dict[str, str], server: tuple[int, Postbox, Path], scheme: str
) -> config.Config:
    port, _, trusted = server
    who = f"{quote(mail_server.USER, safe='')}:{quote(mail_server.PASSWORD, safe='')}"
    return config.load(
        {
            "LOCKSTEP_HOME": str(tmp_path / "home"),
            "REDIS_URL": redis_url,
            "PUBLIC_URL": "https://lockstep.example",
            "SMTP_URL": f"{scheme}://{who}@127.0.0.1:{port}",
            "MAIL_FROM": "lockstep@example.com",
            "SSL_CERT_FILE": str(trusted),
            **database,
        }
    )


def finish() -> None:
    """Wait until what was begun beside an answer is done."""
    for thread in threading.enumerate():
        if thread.name == "forgotten":
            thread.join(30)


def test_an_invitation_is_mailed_below_the_public_address(alice: Client, postbox: Postbox) -> None:
    form = {"email": "dora@example.com", "role": "member"}
    alice.submit("/terraform/acme/invitations", form, headers={"Host": "evil.example"})
    page = alice.submit("/terraform/acme/invitations", form)
    assert "It was mailed to dora@example.com." in page.get_data(as_text=True)
    got = postbox.mails[-1]
    assert (got["To"], got["From"]) == ("dora@example.com", "lockstep@example.com") and postbox.signed_in
    link = re.search(r"https://lockstep\.example/link/[\w-]{43}", got.get_content())
    assert link is not None and link[0] in page.get_data(as_text=True)
    assert "evil" not in "".join(one.get_content() for one in postbox.mails)


@pytest.mark.parametrize("typed", ["bob", "bob@example.com"])
def test_a_forgotten_password_is_set_anew_by_mail(
    app: Flask, anonymous: Client, postbox: Postbox, typed: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert "Forgot your password?" in anonymous.get("/login").get_data(as_text=True)
    with caplog.at_level(logging.DEBUG):
        answer = anonymous.submit("/login/forgot", {"who": typed})
        assert "If there is such an account" in answer.get_data(as_text=True)
        finish()
    (got,) = postbox.mails
    link = re.search(r"https://lockstep\.example(/link/[\w-]{43})", got.get_content())
    assert got["To"] == "bob@example.com" and link is not None
    ours = " ".join(one.getMessage() for one in caplog.records if one.name != "mail.log")  # that is the server's
    assert link[1].rpartition("/")[2] not in ours and mail_server.PASSWORD not in ours
    anonymous.get(link[1])
    assert anonymous.submit("/link", {"password": FRESH, "again": FRESH}).status_code == 303
    anonymous.sign_in("bob", FRESH)


def test_the_answer_is_the_same_for_nobody(anonymous: Client, postbox: Postbox) -> None:
    pages = [anonymous.submit("/login/forgot", {"who": who}).get_data(as_text=True) for who in ("bob", "nobody")]
    finish()
    tokens = re.compile(r'"X-CSRFToken": "[^"]*"')
    assert tokens.sub("", pages[0]) == tokens.sub("", pages[1])
    assert [got["To"] for got in postbox.mails] == ["bob@example.com"]


def test_asking_again_and_again_is_slowed_down(anonymous: Client, postbox: Postbox) -> None:
    for _ in range(5):
        assert anonymous.submit("/login/forgot", {"who": "nobody"}).status_code == 200
    answer = anonymous.submit("/login/forgot", {"who": "nobody"})
    assert answer.status_code == 429 and answer.headers["Retry-After"]
    finish()


def test_a_server_that_is_not_who_it_says_gets_nothing(
    app: Flask, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context():
        monkeypatch.setitem(app.config["LOCKSTEP"].operator, "SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        with pytest.raises(mail.MailFailed):
            mail.send("dora@example.com", "x", "y")
    assert not postbox.mails and not postbox.signed_in


def test_no_header_is_smuggled_in(app: Flask, postbox: Postbox) -> None:
    with app.app_context(), pytest.raises((mail.MailFailed, ValueError)):
        mail.send("dora@example.com\nBcc: eve@example.com", "x", "y")
    assert not postbox.mails
