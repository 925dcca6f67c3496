"""Runs the migrations on the application's own engine, each upgrade as one transaction on SQLite and PostgreSQL."""

from typing import Any

from alembic import context
from flask import current_app
from sqlalchemy import Connection

from extensions import db
from models.base import UtcDateTime


def render_item(kind: str, item: Any, _autogen: Any) -> str | bool:
    """Migrations name no class of the models: those change, a migration that was released does not."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def offline() -> None:
    """Write the SQL instead of running it: `flask db upgrade --sql`."""
    context.configure(dialect_name=db.engine.dialect.name, target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def online() -> None:
    """Run on the application's database."""
    settings = dict(current_app.extensions["migrate"].configure_args)
    with db.engine.connect() as connection:
        _foreign_keys(connection, "OFF")
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_item=render_item,
            transactional_ddl=True,  # SQLite's driver is told to leave BEGIN to us, so its DDL rolls back too
            **settings,
        )
        try:
            with context.begin_transaction():
                _alone(connection)
                context.run_migrations()
        finally:
            connection.rollback()
            _foreign_keys(connection, "ON")


def _alone(connection: Connection) -> None:
    """Of several machines that start at once one makes the tables; the others wait and find them made.

    SQLite's transactions are IMMEDIATE. The number names this lock and means nothing.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7205759403792794)")


def _foreign_keys(connection: Connection, state: str) -> None:
    """SQLite alters a table by making it anew and dropping the old one, which must not delete what points at it.

    The pragma counts only outside of a transaction, so it goes past SQLAlchemy, which would begin one.
    """
    raw = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and raw is not None:
        raw.execute(f"PRAGMA foreign_keys={state}")


if context.is_offline_mode():
    offline()
else:
    online()
