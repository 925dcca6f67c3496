"""The application for tests: SQLite in a temporary folder, a real Redis, form tokens checked as in production.

``app`` has empty tables and an empty Redis for each test. It is the same object all along, because a new one costs half
a second, unless a test module overrides the fixture ``settings``. Requests bring their own application context, so work
with the database goes into ``with app.app_context():``, and never around a request. ``alice``, ``bob`` and ``carol``
are signed-in clients in ``world``; ``anonymous`` is a client that is not.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import config
from app import create_app
from extensions import db
from services import queue
from tests.factories import World, make_world
from tests.support import redis_process
from tests.support.client import Client
from tests.support.sharing import Sharing


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With `--dist loadgroup`, tests that share a running stack go to one worker."""
    return Sharing(config, log) if config.getvalue("dist") == "loadgroup" else None


#: What stays in the data folder from one test to the next.
_KEPT = ("lockstep.db", "secret_key", "encryption_keys")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis for the whole session."""
    with redis_process.running() as url:
        yield url


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Flask]:
    """The one application of the session; tests ask for :func:`app`."""
    home = tmp_path_factory.mktemp("home")
    with _running(config.load({"LOCKSTEP_HOME": str(home), "REDIS_URL": redis_url})) as application:
        yield application


@pytest.fixture
def settings(application: Flask) -> config.Config:
    """The settings of :func:`app`. A test that overrides this fixture has an application of its own."""
    found: config.Config = application.config["LOCKSTEP"]
    return found


@pytest.fixture
def app(application: Flask, settings: config.Config) -> Iterator[Flask]:
    """The application with empty tables, Redis and data folder. Unexpected exceptions reach the test."""
    if settings is not application.config["LOCKSTEP"]:
        with _running(settings) as own:
            yield own
        return
    with application.app_context():
        for table in reversed(db.metadata.sorted_tables):
            db.session.execute(table.delete())
        db.session.commit()
        queue.connection().flushall()
    _clear(settings.home)
    yield application


@contextlib.contextmanager
def _running(settings: config.Config) -> Iterator[Flask]:
    application = create_app(settings, TESTING=True, PROPAGATE_EXCEPTIONS=True)
    application.test_client_class = Client
    with application.app_context():
        db.create_all()
        queue.connection().flushall()
    yield application
    with application.app_context():
        queue.connection().close()
        db.session.remove()
        db.engine.dispose()


def _clear(home: Path) -> None:
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(_KEPT):
            path.unlink()


@pytest.fixture
def world(app: Flask) -> World:
    """The organization acme with alice (owner), bob (member) and the environment "network"; carol owns other."""
    return make_world(app)


@pytest.fixture
def alice(app: Flask, world: World) -> Client:
    """A signed-in owner."""
    return _client(app).sign_in("alice")


@pytest.fixture
def bob(app: Flask, world: World) -> Client:
    """A signed-in member."""
    return _client(app).sign_in("bob")


@pytest.fixture
def carol(app: Flask, world: World) -> Client:
    """A signed-in stranger."""
    return _client(app).sign_in("carol")


@pytest.fixture
def anonymous(app: Flask) -> Client:
    """A client that is not signed in."""
    return _client(app)


def _client(app: Flask) -> Client:
    client = app.test_client()
    assert isinstance(client, Client)
    return client
