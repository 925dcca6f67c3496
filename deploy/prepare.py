"""Brings the tables up to date: a process of its own at each start, or `python -m deploy.prepare`.

Prints one JSON object: `setup_token`, the new one-time token while nobody has an account, else null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from app import add_migrations, create_app
from extensions import db
from services import setup
from services.storage import key_check

_VERSIONS = Path(__file__).resolve().parents[1] / "migrations" / "versions"


def tables(app: Flask) -> int:
    """Migrate and print, with an application without migrations."""
    with app.app_context():
        if not up_to_date():
            _migrate(app)
        try:
            key_check.prove()
        except key_check.WrongKeys as error:
            sys.exit(f"Lockstep cannot start: {error}")
        token = setup.issue_token(current_app.config["LOCKSTEP"].home) if setup.is_empty() else None
    sys.stdout.write(json.dumps({"setup_token": token}) + "\n")
    return 0


def newest() -> str:
    """The revision of the newest migration: the number that its file's name begins with."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))


def up_to_date() -> bool:
    """Whether the database has the newest migration; loading Alembic to be told so is a sixth of a start."""
    try:
        return db.session.scalars(text("SELECT version_num FROM alembic_version")).all() == [newest()]
    except DatabaseError:  # no tables yet, or what Alembic itself will say
        return False
    finally:
        db.session.remove()


def _migrate(app: Flask) -> None:
    import flask_migrate

    add_migrations(app)
    flask_migrate.upgrade()


if __name__ == "__main__":
    sys.exit(tables(create_app(migrations=False)))
