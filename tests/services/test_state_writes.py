"""States that people write: access is looked at once more when a bucket has taken its time."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from extensions import db
from models import Environment, Membership, StateVersion
from policy.lifecycle import RunStatus
from policy.permissions import Access, Role
from services import members, state_writes, states
from services.errors import Forbidden, NotFound
from services.states import Prepared
from tests import factories

pytestmark = pytest.mark.usefixtures("here")


def content(serial: int) -> bytes:
    return json.dumps({"version": 4, "serial": serial, "lineage": "8a2f", "resources": []}).encode()


def terminal(membership: Membership, environment: Environment) -> object:
    return state_writes.from_terminal(membership, environment, content(9), None, "a token")


def upload(membership: Membership, environment: Environment) -> object:
    return state_writes.upload(membership, environment, content(9), force=False, typed_name="")


def roll_back(membership: Membership, environment: Environment) -> object:
    return state_writes.roll_back(membership, environment, 1, typed_serial="1", seen=2)


def withdrawn() -> None:
    factories.grant(factories.environment(), "bob", None)


def only_read() -> None:
    factories.grant(factories.environment(), "bob", Access.READ)


def removed() -> None:
    members.remove(factories.member("alice"), "bob")


@pytest.mark.parametrize("write", [terminal, upload, roll_back])
@pytest.mark.parametrize(("end", "error"), [(withdrawn, NotFound), (only_read, Forbidden), (removed, NotFound)])
def test_who_loses_access_while_a_state_is_stored_writes_none(
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Membership, Environment], object],
    end: Callable[[], None],
    error: type[Exception],
) -> None:
    factories.member("alice", role=Role.OWNER)
    environment = factories.environment()
    for serial in (1, 2):
        states.store(factories.run(environment, RunStatus.APPLIED), content(serial))
        db.session.commit()
    bob, real = factories.member("bob", role=Role.MEMBER), states.prepare
    factories.grant(environment, "bob", Access.ADMIN)

    def prepare(environment_id: int, given: bytes) -> Prepared:
        prepared = real(environment_id, given)
        db.session.commit()
        reached.append(environment_id)
        end()
        db.session.commit()
        return prepared

    reached: list[int] = []
    monkeypatch.setattr(states, "prepare", prepare)
    with pytest.raises(error):
        write(bob, environment)
    db.session.rollback()
    assert reached
    assert [version.serial for version in db.session.query(StateVersion).order_by(StateVersion.number)] == [1, 2]
