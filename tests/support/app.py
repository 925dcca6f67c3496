"""An application of its own for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import flask_migrate
from flask import Flask
from sqlalchemy import Integer, text

import config
from app import create_app
from extensions import db
from services import queue
from tests.support.client import Client

MIGRATIONS = str(Path(__file__).parents[2] / "migrations")


@contextlib.contextmanager
def running_app(settings: config.Config) -> Iterator[Flask]:
    """An application of these settings, with empty tables and an empty Redis."""
    application = create_app(settings, TESTING=True, PROPAGATE_EXCEPTIONS=True)
    application.test_client_class = Client
    with application.app_context():
        # The tables come from the migrations where a person's would; on SQLite the models' own are a second quicker.
        if db.engine.dialect.name == "sqlite":
            db.create_all()
        else:
            flask_migrate.upgrade(MIGRATIONS)
            empty_tables()
        queue.connection().flushall()
    yield application
    with application.app_context():
        queue.connection().close()
        db.session.remove()
        db.engine.dispose()


def empty_tables() -> None:
    """Every row gone, and the ids from 1 again, as on SQLite by itself."""
    if db.engine.dialect.name == "sqlite":
        for table in reversed(db.metadata.sorted_tables):
            db.session.execute(table.delete())
    else:
        # Not TRUNCATE, which makes the files of all tables and indexes anew: a quarter of a second. The lock is
        # its lock: a transaction left open is told, not waited for.
        tables = list(reversed(db.metadata.sorted_tables))
        counted = [table.name for table in tables if "id" in table.c and isinstance(table.c.id.type, Integer)]
        statements = [
            "SET LOCAL lock_timeout = '20s'",
            f"LOCK TABLE {', '.join(table.name for table in tables)} IN ACCESS EXCLUSIVE MODE",
            *(f"DELETE FROM {table.name}" for table in tables),  # noqa: S608 (names of our own)
            *(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), 1, false)" for name in counted),
        ]
        db.session.execute(text("; ".join(statements)))
    db.session.commit()
