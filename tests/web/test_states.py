"""The States tab."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from extensions import db
from models import AuditEvent, Blob, Run
from policy.lifecycle import RunStatus
from services import clock, run_secrets, state_writes, states
from services.storage import blobs
from tests import factories
from tests.factories import World
from tests.support.client import Client


@contextmanager
def replaced(app: Flask, monkeypatch: pytest.MonkeyPatch, where: Any, *, late: bool = False) -> Iterator[None]:
    """A run that applies has saved serial 1, and saves 2 in its place when ``where.get`` is first asked, or answers."""
    with app.app_context():
        run_id = factories.run(factories.environment(), RunStatus.APPLYING).id
        factories.state(db.session.get_one(Run, run_id), serial=1)
    get, asked = where.get, threading.Event()

    def save() -> None:
        with app.app_context():
            factories.state(db.session.get_one(Run, run_id), serial=2)

    def getting(*args: Any, **options: Any) -> bytes:
        if asked.is_set():  # the saving itself reads, too
            return get(*args, **options)
        asked.set()
        early = get(*args, **options) if late else None
        saving = threading.Thread(target=save)
        saving.start()
        saving.join()
        return get(*args, **options) if early is None else early

    monkeypatch.setattr(where, "get", getting)
    yield
    assert asked.is_set()


def assert_handed_out(app: Flask, answer: TestResponse) -> None:
    """The name, the content and the audit event tell of one serial."""
    serial = json.loads(answer.get_data())["serial"]
    name = answer.headers.get("Content-Disposition", f'"network-serial-{serial}.tfstate"')
    assert name.endswith(f'"network-serial-{serial}.tfstate"')
    with app.app_context():
        event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "state.download")).one()
        assert (event.details["number"], event.details["serial"]) == (1, serial)


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


@pytest.mark.parametrize("page", ["1", "compare"])
def test_a_state_that_an_apply_replaces_meanwhile(
    app: Flask, bob: Client, world: World, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    """PostgreSQL shows each statement what was committed before it, so the version that was read names what is gone."""
    with replaced(app, monkeypatch, blobs):
        answer = bob.get(f"{world.path}/states/{page}")
    assert answer.status_code == 200
    if page == "1":
        assert_handed_out(app, answer)


def test_a_state_that_cannot_be_read_is_not_asked_for_again_and_again(app: Flask, bob: Client, world: World) -> None:
    with app.app_context():
        version = factories.state(factories.run(factories.environment(), RunStatus.APPLIED))
        db.session.get_one(Blob, version.blob_id).data = b"broken"
        db.session.commit()
    assert bob.get(f"{world.path}/states/1").status_code == 500


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


def holding(serial: int, *inputs: str) -> bytes:
    """A state of as many resources, each with its input."""
    each = [
        {"mode": "managed", "type": "terraform_data", "name": f"it{at}", "instances": [{"attributes": {"input": text}}]}
        for at, text in enumerate(inputs)
    ]
    return json.dumps(
        {"version": 4, "serial": serial, "lineage": "l", "terraform_version": "1.11.4", "resources": each}
    ).encode()


def applied(serial: int, secret: str, *inputs: str) -> None:
    """A run whose secret this was saved such a state."""
    run = factories.run(factories.environment(), RunStatus.APPLIED)
    run.apply.started_at = clock.now()
    run_secrets.keep(run.id, {secret})
    states.store(run, holding(serial, *inputs))
    db.session.commit()


@pytest.mark.parametrize("how", ["rollback", "upload", "terminal"])
def test_a_comparison_hides_what_was_secret_where_a_person_saved_the_state(
    app: Flask, bob: Client, world: World, how: str
) -> None:
    """What was secret in the run that the content comes from, whoever brought it back or went on from it."""
    secret, said = "old-hunter22", "the password is old-hunter22"
    with app.app_context():
        alice, here = factories.member("alice"), factories.environment()
        applied(1, secret, said)
        if how == "terminal":
            for number in (2, 3):
                state_writes.from_terminal(alice, here, holding(number, f"{number}: {said}"), None, "a token")
        else:
            applied(2, "new-hunter33")
            if how == "rollback":
                state_writes.roll_back(alice, here, 1, typed_serial="1", seen=2)
            else:
                state_writes.upload(alice, here, holding(3, said), force=False, typed_name="")
    page = bob.get(f"{world.path}/states/compare?from=2&to=3").get_data(as_text=True)
    assert "terraform_data.it0" in page and "(sensitive value)" in page
    assert secret not in page
