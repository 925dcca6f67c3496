"""Compare-and-set: an UPDATE whose WHERE clause names what must still be so."""

from __future__ import annotations

from typing import cast

from sqlalchemy import CursorResult, Update

from extensions import db


def won(statement: Update, **values: object) -> bool:
    """Execute the update; whether it found its one row as expected. The loser changed nothing. The caller commits.

    ``values`` are those of its parameters.
    """
    result = cast("CursorResult[None]", db.session.execute(statement, values or None))
    return result.rowcount == 1
