"""The second factor: set up, asked for, replaced by recovery codes, required by an organization, taken away."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent, RecoveryCode, TokenScope, User
from policy.permissions import Access
from services import second_factor, tokens
from services.errors import Conflict, Forbidden, Invalid
from services.throttle import Throttled
from tests import factories
from tests.factories import PASSWORD, World
from tests.support import lab
from tests.support.authenticator import code, enrol, key_on
from tests.support.client import Client

#: The world comes first: it is made in a context of its own.
pytestmark = pytest.mark.usefixtures("world")

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def here(app: Flask) -> Iterator[Flask]:
    """An application context around the whole test."""
    with app.app_context():
        yield app
        db.session.remove()


def actions(app: Flask) -> list[tuple[str, str]]:
    with app.app_context():
        events = db.session.scalars(select(AuditEvent).order_by(AuditEvent.id))
        return [(event.action, event.details.get("how", "")) for event in events]


def sign_in_until_code(client: Client, **data: str) -> None:
    answer = client.submit("/login", {"username": "alice", "password": PASSWORD, **data})
    assert (answer.status_code, answer.location) == (303, "/login/code")


def test_it_is_set_up_by_scanning_and_a_first_code(app: Flask, alice: Client, anonymous: Client) -> None:
    assert alice.submit("/settings/second-factor/begin").status_code == 303
    device = key_on(alice)
    page = alice.get("/settings/second-factor").get_data(as_text=True)
    assert "<svg" in page and "<img" not in page and " style=" not in page
    wrong = alice.submit(
        "/settings/second-factor/confirm", {"code": "000000" if code(device) != "000000" else "000001"}
    )
    assert wrong.status_code == 422 and "That code is not right." in wrong.get_data(as_text=True)
    anonymous.sign_in("alice")  # not in force yet
    done = alice.submit("/settings/second-factor/confirm", {"code": code(device)})
    shown = re.findall(r"<li><code>([a-z0-9]{5}-[a-z0-9]{5})</code></li>", done.get_data(as_text=True))
    assert done.status_code == 201 and len(set(shown)) == 10
    later = alice.get("/settings/second-factor").get_data(as_text=True)
    assert "10 recovery codes left" in later and shown[0] not in later and device.secret not in later
    assert [action for action, _ in actions(app)][-1] == "second_factor.on"


def test_secret_and_codes_are_not_in_the_database(app: Flask, alice: Client) -> None:
    device, codes = enrol(app, "alice")
    with app.app_context():
        row = db.session.execute(select(User.totp_secret).where(User.name == "alice")).one()
        assert device.secret.encode() not in row.totp_secret
        kept = list(db.session.scalars(select(RecoveryCode.digest)))
        assert len(kept) == 10 and all(digest.startswith("scrypt:") for digest in kept)
        # Bound to its row: copied to somebody else it opens nothing.
        bob = factories.person("bob")
        bob.totp_secret, bob.totp_at = row.totp_secret, datetime.now(UTC)
        db.session.commit()
        for typed in (code(device), codes[0]):
            with pytest.raises(Invalid, match="cannot be checked"):
                second_factor.check(bob, typed)


def test_signing_in_asks_for_a_code_and_leads_on(app: Flask, anonymous: Client, world: World) -> None:
    device, _ = enrol(app, "alice")
    there = f"{world.home}/environments/new"
    anonymous.submit(f"/login?next={there}", {"username": "alice", "password": PASSWORD, "remember": "on"})
    assert anonymous.get(there).status_code == 302  # the password alone opens nothing
    wrong = anonymous.submit("/login/code", {"code": "12345x"})
    assert wrong.status_code == 422 and "not right" in wrong.get_data(as_text=True)
    right = anonymous.submit("/login/code", {"code": f"{code(device)[:3]} {code(device)[3:]}"})
    assert (right.status_code, right.location) == (303, there)
    assert anonymous.get(there).status_code == 200
    assert anonymous.get_cookie("lockstep_remember") is not None
    assert ("session.sign_in", "password and code") in actions(app)
    assert "second_factor.refused" in [action for action, _ in actions(app)]


def test_a_code_is_taken_once(app: Flask, anonymous: Client) -> None:
    device, _ = enrol(app, "alice")
    used = code(device)
    sign_in_until_code(anonymous)
    assert anonymous.submit("/login/code", {"code": used}).status_code == 303
    anonymous.submit("/logout")
    sign_in_until_code(anonymous)
    assert anonymous.submit("/login/code", {"code": used}).status_code == 422


def test_of_two_with_the_same_code_at_once_one_gets_in(here: Flask) -> None:
    device, codes = enrol(here, "alice")
    for used in (code(device), codes[0]):
        together = threading.Barrier(2)

        def attempt(used: str = used, together: threading.Barrier = together) -> str | None:
            user = factories.person("alice")
            db.session.rollback()  # or the other waits for the database
            together.wait(20)
            return second_factor.check(user, used)

        crowd = [lab.Beside(here, attempt) for _ in range(2)]
        assert sorted(one.result() is None for one in crowd) == [False, True]


def test_older_and_newer_codes(here: Flask) -> None:
    with time_machine.travel(START, tick=False) as clock:
        device, _ = enrol(here, "alice")  # with the code of the step before
        alice, now = factories.person("alice"), int(START.timestamp())
        assert second_factor.check(alice, device.at(now - 30)) is None
        assert second_factor.check(alice, device.at(now + 60)) is None
        assert second_factor.check(alice, device.at(now + 30)) == "code"
        assert second_factor.check(alice, device.at(now)) is None  # of an earlier step than the last
        clock.shift(60)
        assert second_factor.check(alice, device.at(now + 60)) == "code"


def test_a_recovery_code_works_once_and_says_how_many_are_left(app: Flask, anonymous: Client) -> None:
    _, codes = enrol(app, "alice")
    sign_in_until_code(anonymous)
    assert anonymous.submit("/login/code", {"code": f" {codes[3].upper()} "}).status_code == 303
    assert "9 recovery codes left" in anonymous.get("/settings/second-factor").get_data(as_text=True)
    anonymous.submit("/logout")
    sign_in_until_code(anonymous)
    assert anonymous.submit("/login/code", {"code": codes[3]}).status_code == 422
    assert ("session.sign_in", "password and recovery code") in actions(app)


def test_guessing_codes_is_slowed_down(app: Flask, anonymous: Client) -> None:
    device, _ = enrol(app, "alice")
    sign_in_until_code(anonymous)
    for _ in range(5):
        anonymous.submit("/login/code", {"code": "000000"})
    answer = anonymous.submit("/login/code", {"code": code(device)})
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    with app.app_context(), pytest.raises(Throttled):
        second_factor.check(factories.person("alice"), code(device))


def test_the_first_step_ends_after_ten_minutes_and_with_the_password(app: Flask, anonymous: Client) -> None:
    device, _ = enrol(app, "alice")
    sign_in_until_code(anonymous)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=11)):
        assert anonymous.submit("/login/code", {"code": code(device)}).location == "/login"
    sign_in_until_code(anonymous)
    with app.app_context():
        factories.person("alice").session_epoch += 1
        db.session.commit()
    assert anonymous.submit("/login/code", {"code": code(device)}).location == "/login"


def test_turning_it_off_takes_password_and_code(app: Flask, alice: Client, anonymous: Client) -> None:
    device, codes = enrol(app, "alice")
    off = "/settings/second-factor/off"
    assert alice.submit(off, {"password": "wrong", "code": code(device)}).status_code == 422
    assert alice.submit(off, {"password": PASSWORD, "code": "000000"}).status_code == 422
    assert alice.submit(off, {"password": PASSWORD, "code": code(device)}).status_code == 303
    anonymous.sign_in("alice")
    with app.app_context():
        assert db.session.query(RecoveryCode).count() == 0
    assert codes


def test_who_has_no_password_turns_it_off_with_a_code(app: Flask, alice: Client) -> None:
    device, _ = enrol(app, "alice")
    with app.app_context():
        factories.person("alice").password_hash = ""
        db.session.commit()
    assert alice.submit("/settings/second-factor/off", {"code": "12345x"}).status_code == 422
    assert alice.submit("/settings/second-factor/off", {"code": code(device)}).status_code == 303


def test_new_recovery_codes_end_the_former(app: Flask, alice: Client) -> None:
    device, codes = enrol(app, "alice")
    answer = alice.submit("/settings/second-factor/codes", {"code": code(device)})
    assert answer.status_code == 201
    with app.app_context():
        assert second_factor.check(factories.person("alice"), codes[0]) is None


def test_it_is_not_begun_anew_while_in_force(app: Flask) -> None:
    enrol(app, "alice")
    with app.app_context(), pytest.raises(Conflict):
        second_factor.begin(factories.person("alice"))


# -- required by an organization ---------------------------------------------------------------------------------------


def demand(app: Flask) -> None:
    """Acme requires a second factor; alice, its owner, has one."""
    enrol(app, "alice")
    with app.app_context():
        second_factor.require(factories.member("alice"), True)


def test_who_has_none_is_led_to_set_it_up_and_can_do_nothing_else(app: Flask, bob: Client, world: World) -> None:
    demand(app)
    for path in (world.home, f"{world.path}/variables", f"{world.path}/states", f"{world.path}/changes"):
        answer = bob.get(path)
        assert (answer.status_code, answer.location) == (303, "/settings/second-factor"), path
    assert bob.submit(f"{world.path}/settings/lock", {"reason": "x"}).location == "/settings/second-factor"
    page = bob.get("/settings/second-factor").get_data(as_text=True)
    assert "You need a second factor for acme." in page
    bob.submit("/settings/second-factor/begin")
    bob.submit("/settings/second-factor/confirm", {"code": code(key_on(bob))})
    assert bob.get(world.home).status_code == 200


def test_tokens_of_who_has_none_are_refused_too(app: Flask, world: World) -> None:
    with app.app_context():
        text = tokens.create(factories.person("bob"), "laptop", TokenScope.READ, None)[1]
        factories.grant(factories.environment(), "bob", Access.WRITE)
    client = app.test_client()
    assert client.get("/api/v1/states/acme/network", auth=("bob", text)).status_code == 204
    demand(app)
    answer = client.get("/api/v1/states/acme/network", auth=("bob", text))
    assert answer.status_code == 403 and "requires a second factor" in answer.get_data(as_text=True)


def test_strangers_learn_nothing_of_it(app: Flask, carol: Client, world: World) -> None:
    demand(app)
    assert carol.get(world.home).status_code == 404


def test_only_owners_who_have_one_require_it(here: Flask) -> None:
    with pytest.raises(Forbidden):
        second_factor.require(factories.member("bob"), True)
    with pytest.raises(Conflict, match="your own second factor first"):
        second_factor.require(factories.member("alice"), True)
    with pytest.raises(Invalid):
        second_factor.turn_off(factories.person("alice"), "123456")
