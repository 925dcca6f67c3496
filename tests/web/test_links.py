"""One-time links: used once, ended in time, made by who may, and telling nothing to anybody else."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent, Membership, OneTimeLink, SignIn
from policy.permissions import Role
from services import accounts, links, mail
from services.errors import Forbidden, LockstepError, NotFound
from tests import factories
from tests.factories import PASSWORD, World
from tests.support import lab
from tests.support.authenticator import enrol
from tests.support.client import Client

pytestmark = pytest.mark.usefixtures("world")

NEW = {"name": "dora", "email": "dora@example.com", "password": "a long enough one"}
FRESH = "tangerine submarine"


def shown(client: Client, path: str, **data: str) -> str:
    """The path of the link that the page shows."""
    answer = client.submit(path, data)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    found = re.search(r"http://localhost(/link/[\w-]{43})<", answer.get_data(as_text=True))
    assert found is not None
    return found[1]


def invite(client: Client, **data: str) -> str:
    return shown(client, "/terraform/acme/invitations", **({"role": "member"} | data))


def reset(client: Client, name: str = "bob") -> str:
    return shown(client, f"/terraform/acme/signing-in/{name}/reset-link")


def role(app: Flask, name: str) -> Role | None:
    with app.app_context():
        found = db.session.get(Membership, (factories.organization("acme").id, factories.person(name).id))
        return found.role if found else None


def actions(app: Flask) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(AuditEvent.action).order_by(AuditEvent.id)))


def test_a_new_person_makes_an_account_and_is_in(app: Flask, alice: Client, anonymous: Client, world: World) -> None:
    link = invite(alice, role="owner")
    arrived = anonymous.get(link)
    assert (arrived.status_code, arrived.location) == (303, "/link")
    page = anonymous.get("/link").get_data(as_text=True)
    assert "invites you to <strong>acme</strong> as owner" in page and link not in page
    answer = anonymous.submit("/link", NEW)
    assert (answer.status_code, answer.location) == (303, world.home)
    assert anonymous.get(world.home).status_code == 200 and role(app, "dora") is Role.OWNER
    assert {"link.invite", "link.join", "user.create", "session.sign_in"} <= set(actions(app))


def test_an_account_that_is_there_joins(app: Flask, alice: Client, carol: Client) -> None:
    carol.get(invite(alice))
    assert "Join acme as carol" in carol.get("/link").get_data(as_text=True)
    assert carol.submit("/link").location == "/terraform/acme"
    assert role(app, "carol") is Role.MEMBER


def test_who_signs_in_first_comes_back_to_the_invitation(app: Flask, alice: Client, anonymous: Client) -> None:
    anonymous.get(invite(alice))
    data = {"username": "carol", "password": PASSWORD}
    assert anonymous.submit("/login?next=/link", data).location == "/link"
    assert anonymous.submit("/link").status_code == 303
    assert role(app, "carol") is Role.MEMBER


def test_a_member_does_not_use_an_invitation_up(app: Flask, alice: Client, bob: Client, carol: Client) -> None:
    link = invite(alice)
    bob.get(link)
    assert bob.submit("/link").status_code == 409
    carol.get(link)
    assert carol.submit("/link").status_code == 303


def test_a_refused_field_leaves_the_invitation(app: Flask, alice: Client, anonymous: Client) -> None:
    anonymous.get(invite(alice))
    for wrong in ({"password": "short"}, {"password": "acme-dora-2026"}, {"name": "alice"}, {"email": "x"}):
        assert anonymous.submit("/link", NEW | wrong).status_code == 422
    assert anonymous.submit("/link", NEW).status_code == 303


def test_a_link_works_once(alice: Client, anonymous: Client, carol: Client) -> None:
    link = invite(alice)
    anonymous.get(link)
    assert anonymous.submit("/link", NEW).status_code == 303
    carol.get(link)
    for answer in (carol.get("/link"), carol.submit("/link")):
        assert answer.status_code == 404


def test_of_two_at_once_one_is_let_in(app: Flask) -> None:
    with app.app_context():
        secret = links.invite(factories.member("alice"), Role.MEMBER, "")
        for name in ("erin", "frank"):
            factories.person(name)
        db.session.remove()
        together = threading.Barrier(2)

        def attempt(name: str) -> bool:
            link = links.look_up(secret)
            user = factories.person(name)
            db.session.rollback()
            together.wait(20)
            try:
                links.join(link, user)
            except LockstepError:
                return False
            return True

        crowd = [lab.Beside(app, partial(attempt, name)) for name in ("erin", "frank")]
        assert sorted(one.result() for one in crowd) == [False, True]
        db.session.remove()


@pytest.mark.parametrize(("kind", "hours"), [("invitation", 48), ("reset", 1)])
def test_a_link_ends_in_time(alice: Client, anonymous: Client, kind: str, hours: int) -> None:
    link = invite(alice) if kind == "invitation" else reset(alice)
    for minutes, status in ((-2, 200), (1, 404)):
        with time_machine.travel(datetime.now(UTC) + timedelta(hours=hours, minutes=minutes)):
            assert anonymous.get(link, follow_redirects=True).status_code == status


def test_a_revoked_invitation_is_nothing(app: Flask, alice: Client, carol: Client) -> None:
    link = invite(alice, email="carol@example.com")
    with app.app_context():
        number = db.session.scalars(select(OneTimeLink.id)).one()
    path = f"/terraform/acme/invitations/{number}/revoke"
    assert "carol@example.com" in alice.get("/terraform/acme/signing-in").get_data(as_text=True)
    assert (alice.submit(path).status_code, alice.submit(path).status_code) == (303, 409)
    carol.get(link)
    assert carol.submit("/link").status_code == 404


def test_an_invitation_ends_when_who_made_it_is_no_owner_any_more(app: Flask, alice: Client, carol: Client) -> None:
    link = invite(alice)
    with app.app_context():
        factories.member("alice").role = Role.MEMBER
        db.session.commit()
    carol.get(link)
    assert carol.submit("/link").status_code == 404 and role(app, "carol") is None


def test_only_a_digest_is_stored_and_no_event_holds_the_secret(app: Flask, alice: Client) -> None:
    secrets = [link.rpartition("/")[2] for link in (invite(alice), reset(alice))]
    with app.app_context():
        kept = [repr(vars(row)) for row in db.session.query(OneTimeLink)]
        kept += [repr(event.details) for event in db.session.query(AuditEvent)]
    assert not [secret for secret in secrets for text in kept if secret in text]
    page = alice.get("/terraform/acme/signing-in").get_data(as_text=True)
    assert not [secret for secret in secrets if secret in page]


# -- new passwords -----------------------------------------------------------------------------------------------------


def test_a_reset_link_sets_a_password_and_signs_out_everywhere(
    app: Flask, alice: Client, bob: Client, anonymous: Client
) -> None:
    anonymous.get(reset(alice))
    assert "A new password for <strong>bob</strong>" in anonymous.get("/link").get_data(as_text=True)
    assert anonymous.submit("/link", {"password": FRESH, "again": "other"}).status_code == 422
    assert anonymous.submit("/link", {"password": "bob-acme-2026", "again": "bob-acme-2026"}).status_code == 422
    assert anonymous.submit("/link", {"password": FRESH, "again": FRESH}).location == "/login"
    assert bob.get("/settings/sessions").status_code == 302
    assert anonymous.get("/link").status_code == 404
    anonymous.sign_in("bob", FRESH)
    with app.app_context():
        ended = db.session.scalars(select(SignIn.ended_at).order_by(SignIn.id))
        assert [at is None for at in ended] == [True, False, True]


def test_a_reset_leaves_the_second_factor(app: Flask, alice: Client, anonymous: Client) -> None:
    enrol(app, "bob")
    anonymous.get(reset(alice))
    anonymous.submit("/link", {"password": FRESH, "again": FRESH})
    answer = anonymous.submit("/login", {"username": "bob", "password": FRESH})
    assert answer.location == "/login/code"


def test_a_new_link_ends_the_one_before(alice: Client, anonymous: Client) -> None:
    first, second = reset(alice), reset(alice)
    for link, status in ((first, 404), (second, 200)):
        anonymous.get(link)
        assert anonymous.get("/link").status_code == status


@pytest.fixture
def mailed(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Asks for a mailed link as a stranger does, and tells its path."""
    texts: list[str] = []
    monkeypatch.setattr(mail, "send", lambda _to, _subject, text: texts.append(text))

    def ask() -> str:
        with app.app_context():
            links.mail_reset("bob", "/link/")
        found = re.search(r"^/link/\S+$", texts[-1], re.MULTILINE)
        assert found is not None
        return found[0]

    return ask


def opens(app: Flask, path: str) -> bool:
    client = app.test_client()
    client.get(path)
    return client.get("/link").status_code == 200


@pytest.mark.parametrize("typed", ["\0", "bob\0"])
def test_what_no_database_compares_is_nobodys_name(app: Flask, typed: str) -> None:
    with app.app_context():
        links.mail_reset(typed, "/link/")
        assert db.session.scalar(select(OneTimeLink)) is None


def test_a_stranger_who_asks_for_a_mail_ends_no_link_that_somebody_made(
    app: Flask, alice: Client, mailed: Callable[[], str]
) -> None:
    owners, first = reset(alice), mailed()
    second = mailed()
    assert opens(app, owners) and opens(app, second) and not opens(app, first)
    assert opens(app, reset(alice)) and not opens(app, owners) and not opens(app, second)


def test_a_new_password_ends_every_other_link(
    app: Flask, alice: Client, anonymous: Client, mailed: Callable[[], str]
) -> None:
    owners, other = reset(alice), mailed()
    anonymous.get(owners)
    assert anonymous.submit("/link", {"password": FRESH, "again": FRESH}).status_code == 303
    assert not opens(app, owners) and not opens(app, other)


@pytest.mark.parametrize("by", ["the person", "an operator"])
def test_a_new_password_by_another_way_ends_every_link(
    app: Flask, alice: Client, bob: Client, mailed: Callable[[], str], by: str
) -> None:
    owners, other = reset(alice), mailed()
    with app.app_context():  # of somebody else
        others = "/link/" + links.operator_reset(factories.person("carol"))
    typed = {"current": "not his password", "password": FRESH, "again": FRESH}
    assert bob.submit("/settings/password", typed).status_code == 422
    assert opens(app, owners) and opens(app, other)
    if by == "the person":
        assert bob.submit("/settings/password", {**typed, "current": PASSWORD}).status_code == 303
    else:
        with app.app_context():
            accounts.operator_password(factories.person("bob"), FRESH)
    assert not opens(app, owners) and not opens(app, other) and opens(app, others)
    assert opens(app, reset(alice))


def test_nobody_becomes_a_person_of_another_organization(app: Flask, alice: Client, carol: Client) -> None:
    """Carol owns other; alice joined it. A link to alice's password would open acme to carol."""
    with app.app_context():
        factories.member("alice", "other", Role.MEMBER)
    enrol(app, "alice")
    for path in ("reset-link", "second-factor"):
        answer = carol.submit(f"/terraform/other/signing-in/alice/{path}")
        assert answer.status_code == 403 and "not yours" in answer.get_data(as_text=True)


def test_a_link_made_before_the_person_joined_another_organization_ends(app: Flask, alice: Client) -> None:
    with app.app_context():
        secret = links.reset_for(factories.member("alice"), "bob")
        assert links.look_up(secret).user is not None
        factories.member("bob", "other", Role.MEMBER)
        with pytest.raises(NotFound):
            links.look_up(secret)


def test_an_owner_takes_a_lost_second_factor_away(app: Flask, alice: Client, anonymous: Client) -> None:
    enrol(app, "bob")
    assert "Take the second factor away" in alice.get("/terraform/acme/signing-in").get_data(as_text=True)
    assert alice.submit("/terraform/acme/signing-in/bob/second-factor").status_code == 303
    anonymous.sign_in("bob")
    assert "second_factor.reset" in actions(app)


def test_not_ones_own(app: Flask, alice: Client) -> None:
    enrol(app, "alice")
    assert alice.submit("/terraform/acme/signing-in/alice/second-factor").status_code == 403
    with app.app_context(), pytest.raises(Forbidden):
        links.reset_for(factories.member("bob"), "alice")


def test_the_requirement_is_turned_on_and_off(app: Flask, alice: Client) -> None:
    path = "/terraform/acme/signing-in/second-factor"
    assert alice.submit(path, {"required": "on"}).status_code == 409
    enrol(app, "alice")
    for wanted in ("on", "off"):
        assert alice.submit(path, {"required": wanted}).status_code == 303
        with app.app_context():
            assert factories.organization("acme").second_factor_required is (wanted == "on")
    assert actions(app)[-2:] == ["second_factor.require", "second_factor.require"]
