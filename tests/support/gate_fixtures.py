"""Fixtures of the tests that stand before AWS: the stand-in, settings that point at it, and an open context."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

import config
from extensions import db
from policy.permissions import Role
from tests.factories import member
from tests.support.app import running_app
from tests.support.aws import Aws, aws_running


@pytest.fixture(scope="session")
def one_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """The stand-in of the whole session."""
    with aws_running(tmp_path_factory.mktemp("aws")) as aws:
        yield aws


@pytest.fixture(scope="session")
def application(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, database: dict[str, str], one_aws: Aws
) -> Iterator[Flask]:
    """As everywhere, with the operator's endpoint at the stand-in."""
    settings = config.load(
        {
            "LOCKSTEP_HOME": str(tmp_path_factory.mktemp("home")),
            "REDIS_URL": redis_url,
            "AWS_ENDPOINT_URL": one_aws.endpoint,
            **database,
        }
    )
    with running_app(settings) as app:
        yield app


@pytest.fixture
def aws(one_aws: Aws) -> Aws:
    """The stand-in with every switch off and no call recorded."""
    one_aws.reset()
    return one_aws


@pytest.fixture
def here(app: Flask) -> Iterator[Flask]:
    """An application context around the whole test; alice owns acme, bob is its member."""
    with app.app_context():
        member("alice", "acme", Role.OWNER)
        member("bob", "acme", Role.MEMBER)
        yield app
        db.session.remove()
