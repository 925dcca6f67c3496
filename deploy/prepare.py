"""Brings the tables up to date: a process of its own at each start, or `python -m deploy.prepare`.

Prints one JSON object: `setup_token`, the new one-time token while nobody has an account, else null.
"""

from __future__ import annotations

import json
import sys

from flask import Flask, current_app

from app import create_app
from services import setup
from services.storage import key_check


def tables(app: Flask) -> int:
    """Migrate and print, with an application that has migrations."""
    import flask_migrate  # with Alembic, which no other process loads

    with app.app_context():
        flask_migrate.upgrade()
        try:
            key_check.prove()
        except key_check.WrongKeys as error:
            sys.exit(f"Lockstep cannot start: {error}")
        token = setup.issue_token(current_app.config["LOCKSTEP"].home) if setup.is_empty() else None
    sys.stdout.write(json.dumps({"setup_token": token}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(tables(create_app()))
