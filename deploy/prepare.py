"""Brings the tables up to date; run by the launcher as a process of its own (`python -m deploy.prepare`).

Prints one JSON object: `setup_token`, the new one-time token while nobody has an account, else null.
"""

from __future__ import annotations

import json
import sys

import flask_migrate
from flask import current_app

from app import create_app
from services import setup
from services.storage import key_check


def main() -> int:
    """Migrate and print."""
    with create_app().app_context():
        flask_migrate.upgrade()
        try:
            key_check.prove()
        except key_check.WrongKeys as error:
            sys.exit(f"Lockstep cannot start: {error}")
        token = setup.issue_token(current_app.config["LOCKSTEP"].home) if setup.is_empty() else None
    sys.stdout.write(json.dumps({"setup_token": token}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
