"""The application for tests: SQLite in a temporary folder, a real Redis, form tokens checked as in production.

With ``LOCKSTEP_TEST_DATABASE=postgresql`` (`make test-postgres`) a real PostgreSQL takes SQLite's place.

``app`` has empty tables and an empty Redis for each test. It is the same object all along, because a new one costs half
a second, unless a test module overrides the fixture ``settings``. Requests bring their own application context, so work
with the database goes into ``with app.app_context():``, and never around a request. ``alice``, ``bob`` and ``carol``
are signed-in clients in ``world``; ``anonymous`` is a client that is not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import config
from extensions import db
from services import pulse, queue
from services.storage import key_check
from tests.factories import World, make_world
from tests.support import postgres, redis_process, skipping
from tests.support.app import empty_tables, running_app
from tests.support.client import Client
from tests.support.sharing import Sharing


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With `--dist loadgroup`, tests that share a running stack go to one worker."""
    return Sharing(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_configure(config: pytest.Config) -> None:
    """No silent skips under CI. On PostgreSQL a worker's forked child leaves the connections of its parent open, and
    tests run phases without the fork.
    """
    config.pluginmanager.register(skipping)
    if postgres.chosen():
        config.addinivalue_line("filterwarnings", "ignore:<psycopg.Connection:ResourceWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL a test that asks for no database would prove nothing new."""
    if postgres.chosen():
        without = [item for item in items if not _DATABASE & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]


#: The fixtures that a test with a database has, by others or by itself.
_DATABASE = {"database", "postgres_server"}

#: What stays in the data folder from one test to the next.
KEPT = ("lockstep.db", "secret_key", "encryption_keys")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis for the whole session."""
    with redis_process.running() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A PostgreSQL for the whole session, whatever database the other tests run on."""
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that name the database of the session's application: none for SQLite."""
    if not postgres.chosen():
        return {}
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return {"DATABASE_URL": server.database()}


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory, redis_url: str, database: dict[str, str]) -> Iterator[Flask]:
    """The one application of the session; tests ask for :func:`app`."""
    home = tmp_path_factory.mktemp("home")
    with running_app(config.load({"LOCKSTEP_HOME": str(home), "REDIS_URL": redis_url, **database})) as application:
        yield application


@pytest.fixture
def settings(application: Flask) -> config.Config:
    """The settings of :func:`app`. A test that overrides this fixture has an application of its own."""
    found: config.Config = application.config["LOCKSTEP"]
    return found


@pytest.fixture
def app(application: Flask, settings: config.Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The application with empty tables, Redis and data folder. Unexpected exceptions reach the test.

    What a test changes, the next poll sees: nothing is shared with the one before.
    """
    monkeypatch.setattr(pulse.shared, "seconds", 0)
    if settings is not application.config["LOCKSTEP"]:
        with running_app(settings) as own:
            yield own
        return
    with application.app_context():
        db.session.remove()
        empty_tables()
        queue.connection().flushall()
    _clear(settings.home)
    application.extensions.pop(key_check.OWED, None)  # what a start of another test could not prove
    yield application


def _clear(home: Path) -> None:
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith(KEPT):
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
