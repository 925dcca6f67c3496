"""The migrations make exactly the tables that the models describe."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import flask_migrate
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask

import config
from app import create_app
from deploy import prepare
from extensions import db
from tests.support import postgres

MIGRATIONS = str(Path(__file__).parents[2] / "migrations")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Flask]:
    """The application with an empty database."""
    app = create_app(config.load({"LOCKSTEP_HOME": str(tmp_path)}), TESTING=True)
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def _tables() -> dict[str, set[str]]:
    """The parts of every CREATE TABLE and CREATE INDEX that SQLite keeps, CHECK constraints included."""
    with db.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        # A table that was altered is one that was made anew and renamed, which quotes its name.
        statements = {name: sql.replace(f'"{name}"', name) for name, sql in rows if name != "alembic_version"}
    # A column that was added stands on the line of the one before.
    between = re.compile(r",\s*\n\s*|\(\s*\n\s*|\s*\n\)|, (?=\w+ [A-Z]+,?\s*\n)")
    return {name: set(between.split(sql.strip())) for name, sql in statements.items()}


@pytest.mark.usefixtures("empty")
def test_from_empty_to_the_models() -> None:
    flask_migrate.upgrade(MIGRATIONS)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, db.metadata) == []


def test_a_migrations_file_begins_with_its_revision() -> None:
    """The start tells by the names, without Alembic, whether there is anything to do."""
    scripts = ScriptDirectory(MIGRATIONS)
    assert [script.revision for script in scripts.walk_revisions()] == sorted(
        (Path(script.path).name.partition("_")[0] for script in scripts.walk_revisions()), reverse=True
    )
    assert scripts.get_heads() == [prepare.newest()]


@pytest.mark.usefixtures("empty")
def test_a_start_migrates_when_there_is_something_to_migrate() -> None:
    assert not prepare.up_to_date()
    flask_migrate.upgrade(MIGRATIONS, revision="0001")
    assert not prepare.up_to_date()
    flask_migrate.upgrade(MIGRATIONS)
    assert prepare.up_to_date()


@pytest.mark.usefixtures("empty")
def test_check_constraints_too() -> None:
    """Autogenerate does not look at CHECK constraints, so the statements themselves are compared."""
    flask_migrate.upgrade(MIGRATIONS)
    migrated = _tables()
    with db.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
        db.metadata.drop_all(connection)
        db.metadata.create_all(connection)
    assert migrated == _tables()


@pytest.mark.usefixtures("empty")
def test_twice_is_once() -> None:
    flask_migrate.upgrade(MIGRATIONS)
    flask_migrate.upgrade(MIGRATIONS)


@pytest.mark.usefixtures("empty")
def test_foreign_keys_hold_afterwards() -> None:
    flask_migrate.upgrade(MIGRATIONS)
    with db.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.usefixtures("empty")
def test_an_upgrade_keeps_what_members_may_do() -> None:
    flask_migrate.upgrade(MIGRATIONS, "0001")
    statements = (
        "INSERT INTO organization (id, name, created_at) VALUES (1, 'acme', '2026-01-01 00:00:00')",
        "INSERT INTO user_account (id, name, email, password_hash, session_epoch, created_at) VALUES"
        " (1, 'alice', 'a@b', 'x', 0, '2026-01-01 00:00:00'), (2, 'bob', 'b@b', 'x', 0, '2026-01-01 00:00:00')",
        "INSERT INTO membership (organization_id, user_id, role) VALUES (1, 1, 'owner'), (1, 2, 'member')",
        "INSERT INTO environment (id, organization_id, name, description, created_at, mfa_level, session_seconds,"
        " terraform_directory, run_counter, configuration_counter, lock_reason)"
        " VALUES (7, 1, 'network', '', '2026-01-01 00:00:00', 'never', 3600, '', 0, 0, '')",
        "INSERT INTO audit_event (id, at, actor_name, action, details, address, request_id)"
        " VALUES (1, '2026-01-01 00:00:00', 'alice', 'user.create', '{}', '', '')",
    )
    with db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    flask_migrate.upgrade(MIGRATIONS)
    with db.engine.connect() as connection:
        grants = connection.exec_driver_sql("SELECT environment_id, user_id, team_id, access FROM access_grant").all()
        assert [tuple(row) for row in grants] == [(7, 2, None, "write")], "owners need none"
        assert connection.exec_driver_sql("SELECT digest FROM audit_event").scalar() == ""
        assert connection.exec_driver_sql("SELECT second_factor_required FROM organization").scalar() == 0


def test_postgresql_takes_the_same_migrations(tmp_path: Path) -> None:
    environ = {"LOCKSTEP_HOME": str(tmp_path), "DATABASE_URL": "postgresql://nobody@localhost/nothing"}
    app = create_app(config.load(environ), TESTING=True)
    written = io.StringIO()
    with app.app_context(), redirect_stdout(written):
        flask_migrate.upgrade(MIGRATIONS, sql=True)
    sql = written.getvalue()
    assert "TIMESTAMP WITH TIME ZONE" in sql
    assert "BYTEA" in sql
    for table in db.metadata.tables:
        assert f"CREATE TABLE {table} " in sql


@pytest.fixture
def live(tmp_path: Path, postgres_server: postgres.Server) -> Iterator[Flask]:
    """The application with an empty PostgreSQL, whatever the other tests run on."""
    environ = {"LOCKSTEP_HOME": str(tmp_path), "DATABASE_URL": postgres_server.database()}
    app = create_app(config.load(environ), TESTING=True)
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def _catalogue() -> set[tuple[str, ...]]:
    """Every column, constraint (CHECKs with their words) and index as PostgreSQL itself tells them."""
    questions = (
        "SELECT table_name, column_name, data_type || coalesce(character_maximum_length::text, ''), is_nullable,"
        " coalesce(column_default, '') FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    )
    with db.engine.connect() as connection:
        rows = {tuple(row) for question in questions for row in connection.exec_driver_sql(question)}
    return {row for row in rows if row[0] != "alembic_version"}


@pytest.mark.usefixtures("live")
def test_postgresql_has_the_models_tables_too() -> None:
    flask_migrate.upgrade(MIGRATIONS)
    flask_migrate.upgrade(MIGRATIONS)
    with db.engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []
    migrated = _catalogue()
    assert any("CHECK" in row[-1] for row in migrated)
    with db.engine.begin() as connection:
        db.metadata.drop_all(connection)
        db.metadata.create_all(connection)
    assert _catalogue() == migrated
