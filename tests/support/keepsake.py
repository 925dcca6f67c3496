"""What a test found made, once for many tests: its rows and files are kept and put back as they were."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BindParameter, Column, Integer, Table, bindparam, func, select

from extensions import db
from services import queue


@dataclass(frozen=True)
class Keepsake:
    """All rows, and the files of the data folder outside of those that stay from one test to the next."""

    rows: list[tuple[Table, list[dict[str, Any]]]]
    files: Path

    @classmethod
    def taken(cls, home: Path, files: Path, stays: tuple[str, ...]) -> Keepsake:
        """Of what there is now. ``files`` is a folder that is not there yet."""
        assert not queue.connection().dbsize(), "What lies in Redis is not kept."
        tables = db.metadata.sorted_tables
        rows = [(table, [dict(row) for row in db.session.execute(select(table)).mappings()]) for table in tables]
        db.session.rollback()
        shutil.copytree(home, files, ignore=lambda folder, names: _of(names, stays) if Path(folder) == home else [])
        return cls([(table, found) for table, found in rows if found], files)

    def put_back(self, home: Path) -> None:
        """Into empty tables and an empty data folder."""
        for table, rows in self.rows:
            db.session.execute(table.insert().values({column.name: _value(column) for column in table.c}), rows)
            if db.engine.dialect.name == "postgresql" and "id" in table.c and isinstance(table.c.id.type, Integer):
                sequence = func.pg_get_serial_sequence(table.name, "id")
                db.session.execute(select(func.setval(sequence, max(row["id"] for row in rows))))
        db.session.commit()
        shutil.copytree(self.files, home, dirs_exist_ok=True)


def _value(column: Column[Any]) -> BindParameter[Any]:
    # A missing JSON value would come back as the word null.
    return bindparam(column.name, type_=JSON(none_as_null=True) if isinstance(column.type, JSON) else column.type)


def _of(names: list[str], stays: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.startswith(stays)]
