"""Sessions are rows of the database: listed, ended one by one or all at once, and proved anew for administration."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask, url_for
from sqlalchemy import select

from extensions import db
from models import AuditEvent, SignIn
from policy.lifecycle import RunStatus
from services import clock, sign_ins, unkept
from tests import factories
from tests.factories import PASSWORD, World
from tests.support.client import Client, form_in

pytestmark = pytest.mark.usefixtures("world")


def another(app: Flask, **data: str) -> Client:
    """Alice in another browser."""
    client = app.test_client()
    assert isinstance(client, Client)
    return client.sign_in("alice", **data)


def numbers(client: Client) -> list[int]:
    """The sessions on the page, the one seen last first."""
    page = client.get("/settings/sessions").get_data(as_text=True)
    return [int(n) for n in re.findall(r"/settings/sessions/(\d+)/revoke", page)]


def actions(app: Flask) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(AuditEvent.action).order_by(AuditEvent.id)))


def make_old(app: Flask, **columns: timedelta) -> None:
    """Every sign-in's times, so long ago."""
    with app.app_context():
        for row in db.session.scalars(select(SignIn)):
            for name, age in columns.items():
                setattr(row, name, clock.now() - age)
        db.session.commit()


def test_the_database_holds_only_a_digest_of_what_the_cookie_holds(app: Flask, alice: Client) -> None:
    with alice.session_transaction() as session:
        token = str(session["_user_id"]).rpartition(".")[2]
    assert len(token) >= 43
    with app.app_context():
        row = db.session.scalars(select(SignIn)).one()
        assert row.digest == sign_ins.digest(token) and token not in repr(vars(row))


def test_the_list_marks_this_browser_and_names_the_others(app: Flask, alice: Client) -> None:
    other = app.test_client()
    assert isinstance(other, Client)
    other.environ_base["HTTP_USER_AGENT"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    other.sign_in("alice")
    page = alice.get("/settings/sessions").get_data(as_text=True)
    assert page.count("this browser</span>") == 1 and "Firefox on Linux" in page and "127.0.0.1" in page
    assert len(numbers(alice)) == 2


def test_a_revoked_session_is_out_at_once_and_the_other_stays(app: Flask, alice: Client) -> None:
    other = another(app, remember="on")
    newest = max(numbers(alice))
    assert alice.submit(f"/settings/sessions/{newest}/revoke").location == "/settings/sessions"
    assert other.get("/settings/sessions").status_code == 302
    other.delete_cookie("lockstep")  # the cookie that keeps signed in is the same session
    assert other.get("/settings/sessions").status_code == 302
    assert len(numbers(alice)) == 1
    assert actions(app)[-1] == "session.revoked"


def test_a_remembered_browser_is_the_session_it_was(app: Flask, alice: Client) -> None:
    other = another(app, remember="on")
    before = numbers(alice)
    other.delete_cookie("lockstep")
    assert sorted(numbers(other)) == sorted(before)


def test_revoking_ones_own_session_signs_out(alice: Client) -> None:
    assert alice.submit(f"/settings/sessions/{numbers(alice)[0]}/revoke").location == "/login"
    assert alice.get("/settings/sessions").status_code == 302


def test_a_session_is_revoked_once(app: Flask, alice: Client) -> None:
    with app.app_context():
        number = factories.sign_in("alice").id
    assert alice.submit(f"/settings/sessions/{number}/revoke").status_code == 303
    assert alice.submit(f"/settings/sessions/{number}/revoke").status_code == 409


def test_out_everywhere_is_everywhere(app: Flask, alice: Client, bob: Client) -> None:
    other = another(app, remember="on")
    assert alice.submit("/settings/sessions/end").location == "/login"
    for client in (alice, other):
        client.delete_cookie("lockstep")
        assert client.get("/settings/sessions").status_code == 302
    assert bob.get("/settings/sessions").status_code == 200
    assert actions(app)[-1] == "session.revoked"


def test_a_cookie_from_before_signing_out_is_worth_nothing(alice: Client) -> None:
    cookie = alice.get_cookie("lockstep")
    assert cookie is not None
    alice.submit("/logout")
    alice.set_cookie("lockstep", cookie.value)
    assert alice.get("/settings/sessions").status_code == 302


@pytest.mark.parametrize(
    "identifier", ["", "1", "1.0", "1.0.", "1.0.x", "²." + "0.x", "9" * 400 + ".0.x", "1.0.\ud800"]
)
def test_no_other_identifier_is_a_session(app: Flask, alice: Client, identifier: str) -> None:
    with app.app_context():
        assert sign_ins.recognize(identifier) is None


def test_another_persons_secret_is_not_mine(app: Flask) -> None:
    with app.app_context():
        alice, bob = factories.person("alice"), factories.person("bob")
        token = factories.session_of(alice).rpartition(".")[2]
        assert sign_ins.recognize(f"{alice.id}.0.{token}") is not None
        assert sign_ins.recognize(f"{bob.id}.0.{token}") is None
        assert sign_ins.recognize(f"{alice.id}.1.{token}") is None


def test_a_browser_that_was_away_for_a_week_is_out(app: Flask, alice: Client) -> None:
    make_old(app, seen_at=timedelta(days=7, minutes=1))
    assert alice.get("/settings/sessions").status_code == 302


def test_last_seen_is_written_once_a_minute(app: Flask, alice: Client) -> None:
    def seen() -> object:
        with app.app_context():
            return db.session.scalars(select(SignIn.seen_at)).one()

    first = seen()
    alice.get("/settings/sessions")
    assert seen() == first
    make_old(app, seen_at=timedelta(minutes=2))
    assert alice.get("/settings/sessions").status_code == 200
    with app.app_context():
        assert clock.now() - db.session.scalars(select(SignIn.seen_at)).one() < timedelta(minutes=1)


# -- the password again ------------------------------------------------------------------------------------------------


def test_administration_asks_for_the_password_again_and_leads_back(app: Flask, alice: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    to_form = alice.get("/settings/tokens").location
    assert to_form == "/settings/sessions/prove?next=/settings/tokens"
    refused = alice.submit(to_form, {"password": "not the password"})
    assert refused.status_code == 422 and "That is not your password." in refused.get_data(as_text=True)
    assert alice.get("/settings/tokens").status_code == 303
    assert alice.submit(to_form, {"password": PASSWORD}).location == "/settings/tokens"
    assert alice.get("/settings/tokens").status_code == 200
    assert actions(app)[-1] == "session.proved"


def test_a_form_that_was_sent_too_late_changes_nothing(app: Flask, alice: Client, world: World) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    there = f"{world.path}/settings"
    assert alice.get(there).status_code == 200  # reading is no administration
    form = {"mfa_level": "plans and applies", "session_minutes": "60"}
    answer = alice.submit(there, form, headers={"Referer": f"http://localhost{there}"})
    assert (answer.status_code, answer.location) == (303, f"/settings/sessions/prove?next={there}")
    with app.app_context():
        assert factories.environment().mfa_level.value == "never"


#: What asks for a recent proof, by the names of their views; what is reached without being signed in is left out.
ADMINISTRATION = ("members", "teams", "access", "tokens", "second_factor", "links", "oidc")
FORMS = {
    "environments.new", "environments.settings", "runs.force", "runs.give_up", "states.upload", "states.rollback",
    "states.unlock", "variables.save_organization", "variables.delete_organization",
}  # fmt: skip
OPEN = {"links.arrive", "links.show", "links.take", "links.forgot", "oidc.go", "oidc.back", "second_factor.step"}


def test_every_form_of_administration_asks_for_a_recent_proof(app: Flask, alice: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    token, asked = alice.token(), 0
    names: dict[str, Any] = {
        "organization": "acme",
        "environment": "network",
        "number": 1,
        "name": "bob",
        "person": "bob",
        "panel": "shared",
    }
    for rule in app.url_map.iter_rules():
        place = rule.endpoint.partition(".")[0]
        if "POST" not in (rule.methods or ()) or rule.endpoint in OPEN:
            continue
        if place not in ADMINISTRATION and rule.endpoint not in FORMS:
            continue
        with app.test_request_context():
            path = url_for(rule.endpoint, **{name: names[name] for name in rule.arguments})
        answer = alice.post(path, data={"csrf_token": token})
        assert answer.status_code == 303 and answer.location.startswith("/settings/sessions/prove"), rule.endpoint
        asked += 1
    assert asked >= 32


def test_a_new_environment_asks_before_anything_is_typed(app: Flask, alice: Client, world: World) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    there = f"{world.home}/environments/new"
    assert alice.get(there).location == f"/settings/sessions/prove?next={there}"


def test_shared_variables_ask_and_lead_back_to_their_organization(app: Flask, alice: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    page = "/settings/organization_variables?organization=acme"
    variable = {"name": "AWS_ACCESS_KEY_ID", "value": "AKIAEXAMPLE", "category": "env"}
    path, headers = "/settings/organization_variables/acme/{}", {"Referer": f"http://localhost{page}"}
    asked = alice.submit(path.format("shared"), variable, headers=headers).location
    assert asked == "/settings/sessions/prove?next=/settings/organization_variables?organization%3Dacme"
    offer = f'href="{asked}">Give your password now'  # before anything is typed
    assert offer in alice.get(page).get_data(as_text=True)
    assert offer in alice.submit(path.format("personal"), {"name": "no name"}).get_data(as_text=True)
    mine = alice.submit(path.format("personal"), variable, headers=headers)  # everyday work
    assert mine.location == "/settings/organization_variables?organization=acme#personal"
    assert alice.submit(asked, {"password": PASSWORD}).location == page
    assert "Give your password now" not in alice.get(page).get_data(as_text=True)
    assert alice.submit(path.format("shared"), variable).location.endswith("#shared")


@pytest.mark.parametrize("tab", ["settings", "states/upload"])
def test_long_forms_offer_the_proof_before_anything_is_typed(app: Flask, alice: Client, world: World, tab: str) -> None:
    page = f"{world.path}/{tab}"
    assert "Give your password now" not in alice.get(page).get_data(as_text=True)
    make_old(app, proved_at=timedelta(minutes=16))
    asked = alice.submit(page, headers={"Referer": f"http://localhost{page}"}).location
    assert f'href="{asked}">Give your password now' in alice.get(page).get_data(as_text=True)
    assert alice.submit(asked, {"password": PASSWORD}).location == page


def test_members_are_told_nothing_of_a_password_for_shared_variables(app: Flask, bob: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    page = bob.get("/settings/organization_variables?organization=acme").get_data(as_text=True)
    assert "Give your password now" not in page


def test_the_audit_log_as_a_file_asks_and_leads_back_to_its_page(app: Flask, alice: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    page = "/terraform/acme/audit?who=bob"
    assert alice.get(page).status_code == 200
    file = "/terraform/acme/audit.csv?who=bob"
    asked = alice.get(file, headers={"Referer": f"http://localhost{page}"}).location
    assert alice.submit(asked, {"password": PASSWORD}).location == page
    assert alice.get(file).mimetype == "text/csv"
    # A link that is followed as a download would keep the page that asks as the file.
    assert " download" not in alice.get(page).get_data(as_text=True)


def test_force_from_the_page_of_a_run_leads_back_to_it(app: Flask, alice: Client, world: World) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    run = f"{world.path}/changes/runs/1"
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://localhost{run}?resources=all"}
    answer = alice.submit(f"{run}/force", headers=headers)
    assert answer.status_code == 403
    assert answer.headers["HX-Redirect"] == f"/settings/sessions/prove?next={run}?resources%3Dall"


def test_somebody_elses_lock_asks_and_ones_own_does_not(app: Flask, alice: Client, bob: Client, world: World) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    settings, unlock = f"{world.path}/settings", f"{world.path}/settings/unlock"

    def shown() -> dict[str, str]:
        return form_in(bob.get(settings).get_data(as_text=True), unlock)

    assert bob.submit(f"{settings}/lock", {"reason": "wait"}).location == settings
    asked = alice.submit(unlock, shown(), headers={"Referer": f"http://localhost{settings}"}).location
    assert asked == f"/settings/sessions/prove?next={settings}"
    assert bob.submit(unlock, shown()).location == settings
    bob.submit(f"{settings}/lock", {"reason": "wait"})
    assert alice.submit(asked, {"password": PASSWORD}).location == settings
    assert alice.submit(unlock, shown()).location == settings


def test_letting_runs_go_on_without_a_state_asks(app: Flask, alice: Client, world: World) -> None:
    with app.app_context():
        unkept.hold(
            factories.run(factories.environment(), RunStatus.ERRORED), unkept.Left("It stays there.", None, "", "")
        )
        db.session.commit()
    make_old(app, proved_at=timedelta(minutes=16))
    asked = alice.submit(f"{world.path}/settings/go-on", {"run": "1"})
    assert asked.location.startswith("/settings/sessions/prove")
    with app.app_context():
        assert factories.environment().unkept_run_id is not None


def test_the_proof_leads_to_no_other_site(app: Flask, alice: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    answer = alice.submit("/settings/tokens", headers={"Referer": "https://evil.example/x"})
    assert answer.location == "/settings/sessions/prove"
    assert alice.submit("/settings/sessions/prove?next=//evil.example", {"password": PASSWORD}).location == "/"


def test_htmx_is_sent_to_the_proof(app: Flask, alice: Client) -> None:
    make_old(app, proved_at=timedelta(minutes=16))
    answer = alice.get("/settings/tokens", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (
        403,
        "/settings/sessions/prove?next=/settings/tokens",
    )


def test_working_is_no_administration(app: Flask, alice: Client, world: World) -> None:
    make_old(app, proved_at=timedelta(days=1))
    for path in (
        world.home,
        f"{world.path}/variables",
        f"{world.path}/states",
        "/settings/sessions",
        "/settings/password",
    ):
        assert alice.get(path).status_code == 200, path
