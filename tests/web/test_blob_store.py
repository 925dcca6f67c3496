"""What people see of a bucket that is away: a page that says so, and nothing half done."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

import config
from extensions import db
from models import Blob, ConfigurationVersion, TokenScope
from policy.lifecycle import RunStatus
from services import tokens
from services.storage import object_store
from tests import factories
from tests.factories import World
from tests.support.bucket import Bucket, bucket, one_bucket
from tests.support.client import Client
from tests.web.test_runs_list import archive, upload
from tests.web.test_states import assert_handed_out, replaced

__all__ = ["bucket", "one_bucket"]


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, database: dict[str, str], bucket: Bucket) -> config.Config:
    environ = {"LOCKSTEP_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url}
    return config.load(environ | database | bucket.settings)


def test_an_upload(app: Flask, alice: Client, world: World, bucket: Bucket) -> None:
    bucket.away()
    answer = upload(alice, world, archive())
    assert answer.status_code == 503
    assert "The object store does not take or give anything" in answer.get_data(as_text=True)
    with app.app_context():
        assert db.session.query(ConfigurationVersion).count() == db.session.query(Blob).count() == 0
    bucket.back()
    assert upload(alice, world, archive()).status_code == 303
    assert [key.split("/")[2] for key in bucket.objects()] == ["configuration"]


def test_a_state(app: Flask, alice: Client, world: World, bucket: Bucket) -> None:
    with app.app_context():
        factories.state(factories.run(factories.environment(), RunStatus.APPLIED))
    link = f"{world.path}/states/1"
    assert alice.get(link).status_code == 200
    bucket.away()
    answer = alice.get(link)
    assert answer.status_code == 503
    assert "try again in a moment" in answer.get_data(as_text=True)


@pytest.mark.parametrize("late", [False, True], ids=["before it is asked for", "once it is there"])
@pytest.mark.parametrize("page", ["states/1", "states/compare", "api"])
def test_a_state_that_an_apply_replaces_meanwhile(
    app: Flask, alice: Client, world: World, monkeypatch: pytest.MonkeyPatch, page: str, late: bool
) -> None:
    """Its object goes with the commit that names another one, and no transaction is open while a bucket is asked."""
    with app.app_context():
        auth = ("alice", tokens.create(factories.person("alice"), "laptop", TokenScope.READ, 30)[1])
    with replaced(app, monkeypatch, object_store, late=late):
        if page == "api":
            answer = app.test_client().get("/api/v1/states/acme/network", auth=auth)
        else:
            answer = alice.get(f"{world.path}/{page}")
    assert answer.status_code == 200
    if page != "states/compare":
        assert_handed_out(app, answer)
