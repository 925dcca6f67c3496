"""The States tab."""

from __future__ import annotations

import json

from flask import Flask
from sqlalchemy import select

from extensions import db
from models import AuditEvent
from policy.lifecycle import RunStatus
from services import run_secrets, states
from tests import factories
from tests.factories import World
from tests.support.client import Client


def test_none_yet(bob: Client, world: World) -> None:
    assert "None yet. The first apply saves one" in bob.get(f"{world.path}/states").get_data(as_text=True)


def test_newest_first_and_the_newest_is_current(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        for serial in (14, 16):
            factories.state(factories.run(factories.environment(), RunStatus.APPLIED), serial=serial, resources=serial)
    page = bob.get(f"{world.path}/states").get_data(as_text=True)
    assert page.index("<strong>16</strong>") < page.index("<strong>14</strong>")
    assert page.count(">current<") == 1
    assert "Serial 16 is the current one" in page
    assert f'href="{world.path}/changes/runs/2">Run #2</a>' in page


def test_download_is_the_file_and_an_audit_event(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        number = factories.state(factories.run(factories.environment(), RunStatus.APPLIED), serial=16).number
    answer = bob.get(f"{world.path}/states/{number}")
    assert answer.mimetype == "application/json"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="network-serial-16.tfstate"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(answer.get_data())["serial"] == 16
    with app.app_context():
        event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "state.download")).one()
        assert (event.actor_name, event.details) == ("bob", {"number": number, "serial": 16})


def test_a_state_of_another_environment_is_not_found(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        number = factories.state(factories.run(factories.environment("staging"), RunStatus.APPLIED)).number
    assert bob.get(f"{world.path}/states/{number}").status_code == 404


def test_a_comparison_hides_what_was_secret_in_the_runs_and_what_is_now(app: Flask, bob: Client, world: World) -> None:
    """Terraform marks nothing of it: the configuration does not know that Lockstep keeps these values secret."""
    then, now, number = "secret-of-the-run", "secret-of-carols-variables", 7355081512
    attributes = [
        {"input": f"x-{then}-y", "seen": "unmarked and no secret", "n": number},
        {"input": {"key": now}, "tags": {then: "name"}},
    ]
    instances = [
        {"index_key": f"for-{then}", "attributes": attributes[0]},
        {"index_key": "b", "attributes": attributes[1]},
    ]
    one = {"mode": "managed", "type": "terraform_data", "name": "it", "instances": instances}
    outputs = {"shown": {"value": now, "type": "string"}}
    state = {"version": 4, "serial": 1, "lineage": "l", "terraform_version": "1.11.4", "resources": [one]}
    with app.app_context():
        run = factories.run(factories.environment(), RunStatus.APPLIED)
        run_secrets.keep(run.id, {then, str(number)})
        states.store(run, json.dumps({**state, "outputs": outputs}).encode())
        db.session.commit()
        factories.variable("theirs", now, owner="alice", sensitive=True)
    page = bob.get(f"{world.path}/states/compare?to=1").get_data(as_text=True)
    assert "unmarked and no secret" in page
    assert "(sensitive value)" in page
    for secret in (then, now, str(number)):
        assert secret not in page
