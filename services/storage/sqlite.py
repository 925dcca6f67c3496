"""SQLite as a server's database: WAL, a patient busy time-out, foreign keys, and writers that queue from the start."""

from __future__ import annotations

import sqlite3
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, Engine, event

#: True while a request only reads; its transactions then never take the write lock.
read_only: ContextVar[bool] = ContextVar("read_only", default=False)


def install(engine: Engine) -> None:
    """Set up every connection of a SQLite engine; other databases are left alone.

    A transaction that begins by reading and then writes can fail at once with "database is locked", whatever the
    busy time-out (SQLite, "WAL mode", SQLITE_BUSY_SNAPSHOT). So transactions that may write begin IMMEDIATE.
    """
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only.get() else "BEGIN IMMEDIATE")
