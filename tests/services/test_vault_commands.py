"""`flask vault`: everything is sealed anew while others write, after a kill, in the bucket too; nothing is lost."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text, update

import config
from extensions import db
from models import AuditEvent, Blob, User, Variable
from policy.lifecycle import RunStatus
from services import second_factor, states, variables
from services.storage import blobs, key_check, rotation, sealed
from services.storage.vault import Vault, generate_key, key_of, place
from tests import factories
from tests.support import bucket as buckets
from tests.support.app import running_app
from tests.support.authenticator import enrol
from tests.support.bucket import Bucket

OLD, NEW, OTHER = generate_key(), generate_key(), generate_key()
Keys = Callable[..., Vault]


@pytest.fixture
def keys(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    """Sets ENCRYPTION_KEYS, as a restart would; within an application context."""

    def put(*texts: str) -> Vault:
        vault = Vault.from_text(",".join(texts))
        monkeypatch.setitem(app.config, "LOCKSTEP", dataclasses.replace(app.config["LOCKSTEP"], vault=vault))
        return vault

    put(OLD)
    factories.make_world(app)
    with app.app_context():
        yield put
        db.session.rollback()


def furnish() -> None:
    """A value of each kind."""
    here = factories.environment()
    factories.variable("PSK", "the shared secret", sensitive=True)
    factories.variable("region", "eu-1", of=here)
    factories.variable("mine", "only mine", owner="alice", sensitive=True)
    factories.state(factories.run(here, RunStatus.APPLIED))
    alice = factories.person("alice")
    alice.totp_secret = variables._vault().encrypt(b"TOTP", place("user_account", "totp_secret", alice.id))
    db.session.commit()
    key_check.prove()


def envelopes() -> list[bytes]:
    db.session.rollback()
    columns = (Variable.value, Blob.data, User.totp_secret)
    found = (value for column in columns for value in db.session.scalars(select(column)))
    return [value for value in found if value is not None]


def read_all() -> tuple[str, ...]:
    here = factories.environment()
    found = variables.resolve(factories.person("alice"), here.organization, here)
    db.session.rollback()
    return (*sorted(found.env.values()), states.content(here, 1)[1].decode()[:12])


def vault(app: Flask, *arguments: str) -> tuple[int, str]:
    db.session.commit()
    done = app.test_cli_runner().invoke(args=["vault", *arguments])
    return done.exit_code, done.output


def test_everything_has_the_new_key_and_the_old_one_can_go(app: Flask, keys: Keys) -> None:
    furnish()
    before, stored = read_all(), len(envelopes())
    new = keys(NEW, OLD)
    code, said = vault(app, "rotate")
    assert code == 0, said
    assert f"{stored} values were encrypted anew." in said
    assert f"{stored} values read ({stored} with key {new.key_ids[0]}), 0 cannot be read." in said
    assert {key_of(envelope) for envelope in envelopes()} == {new.key_ids[0]}
    keys(NEW)
    key_check.prove()
    assert read_all() == before
    assert vault(app, "check")[0] == 0
    event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "vault.rotate")).one()
    assert event.details == {"key": new.key_ids[0], "counts": {"values": stored, "unreadable": 0}}
    keys(NEW, OLD)
    assert "0 values were encrypted anew." in vault(app, "rotate")[1]


def test_a_rotation_that_was_killed_goes_on(app: Flask, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish()
    before, new = read_all(), keys(NEW, OLD)
    replace, left = sealed.Column.replace, iter(range(3))

    class Killed(BaseException):
        pass

    def one_more(*arguments: Any) -> bool:
        if next(left, None) is None:
            raise Killed
        return replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sealed.Column, "replace", one_more)
        with pytest.raises(Killed):
            rotation.rotate()
    db.session.rollback()
    assert [key_of(envelope) for envelope in envelopes()].count(new.key_ids[0]) == 3
    assert read_all() == before, "half-way, everything is read"
    report = rotation.rotate()
    assert (report.changed, report.older, report.unreadable) == (len(envelopes()) - 3, 0, [])
    assert read_all() == before


def test_an_edit_between_reading_and_writing_is_never_overwritten(
    app: Flask, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish()
    keys(NEW, OLD)
    replace, edited = sealed.Column.replace, list[int]()

    def late(column: sealed.Column, row_id: Any, old: bytes, new: bytes) -> bool:
        if column.model is Variable and not edited:
            # A web server that still seals with the old key, which is the worst it can do.
            edited.append(row_id)
            row = db.session.get_one(Variable, row_id)
            envelope = Vault.from_text(OLD).encrypt(b"edited meanwhile", row.context)
            db.session.execute(update(Variable).where(Variable.id == row_id).values(value=envelope))
            db.session.commit()
        return replace(column, row_id, old, new)

    monkeypatch.setattr(sealed.Column, "replace", late)
    report = rotation.rotate()
    assert edited and report.older == 0
    keys(NEW)
    row = db.session.get_one(Variable, edited[0])
    assert variables._open(row) == "edited meanwhile"


def test_people_edit_while_it_runs(app: Flask, keys: Keys) -> None:
    """In threads: no edit is lost, nobody waits for long, and in the end everything has the new key."""
    furnish()
    for number in range(60):
        factories.variable(f"n{number}", f"value {number}")
    ids = list(db.session.scalars(select(Variable.id).where(Variable.name.like("n%"))))
    keys(NEW, OLD)
    db.session.commit()
    done, last = threading.Event(), dict[int, str]()

    def edit() -> None:
        with app.app_context():
            member, turn = factories.member("alice"), 0
            at = variables.Place(member.organization)
            while not done.wait(0.01):  # without a pause SQLite lets nobody else in
                turn += 1
                row = db.session.get_one(Variable, ids[turn % len(ids)])
                last[row.id] = f"edit {turn}"
                variables.save(
                    member, at, category=row.category, name=row.name, value=last[row.id], sensitive=False,
                    variable_id=row.id, seen=row.mark,
                )  # fmt: skip
            db.session.remove()

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        while len(last) < 5:
            assert editor.is_alive()
        report = rotation.rotate()
    finally:
        done.set()
        editor.join(60)
    assert (report.older, report.unreadable) == (0, [])
    db.session.rollback()
    keys(NEW)
    for row_id, value in last.items():
        assert variables._open(db.session.get_one(Variable, row_id)) == value


def test_what_cannot_be_read_is_named_and_nothing_of_it(app: Flask, keys: Keys) -> None:
    furnish()
    row = db.session.scalars(select(Variable).where(Variable.name == "PSK")).one()
    other = db.session.scalars(select(Variable).where(Variable.name == "mine")).one()
    blob = db.session.scalars(select(Blob).where(Blob.kind == "state")).one()
    row.value = other.value  # copied to another row
    blob.data = Vault.from_text(OTHER).encrypt(b"x", f"blob:{blob.id}")
    expected = [f"variable.value {row.id}: The encrypted value was altered", f"blob.data {blob.id}: The value was"]
    row_id = row.id
    db.session.commit()
    code, said = vault(app, "check")
    assert code == 1 and "2 cannot be read" in said
    for beginning in expected:
        assert f"unreadable  {beginning}" in said
    assert "only mine" not in said and "the shared secret" not in said
    keys(NEW, OLD)
    code, said = vault(app, "rotate")
    assert code == 1 and "2 cannot be read" in said
    db.session.rollback()
    kept = db.session.get_one(Variable, row_id).value
    assert key_of(kept) == Vault.from_text(OLD).key_ids[0], "it is left as it is"


def test_without_the_key_everything_is_named(app: Flask, keys: Keys) -> None:
    furnish()
    count = len(envelopes())
    keys(OTHER)
    code, said = vault(app, "check")
    assert (code, said.count("unreadable  ")) == (1, count)
    code, said = vault(app, "rotate")
    assert code == 1 and "None of the keys in ENCRYPTION_KEYS is the one" in said


def test_other_commands_refuse_wrong_keys_and_these_do_not(app: Flask, keys: Keys) -> None:
    furnish()
    keys(OTHER)
    db.session.commit()
    for arguments in (["organization", "create", "new"], ["blobs", "check"]):
        done = app.test_cli_runner().invoke(args=arguments)
        assert done.exit_code == 1
        assert done.output.startswith("Error: None of the keys in ENCRYPTION_KEYS is the one that this database")
        assert "Traceback" not in done.output
    done = app.test_cli_runner().invoke(args=["doctor"])
    assert "key id" in done.output and "Stored values" in done.output
    done = app.test_cli_runner().invoke(args=["vault", "begin-anew", "--yes"])
    assert done.exit_code == 0, done.output
    assert app.test_cli_runner().invoke(args=["organization", "create", "new"]).exit_code == 0


def test_who_begins_anew_is_told_whose_second_factor_is_lost(app: Flask, keys: Keys) -> None:
    furnish()
    for name, count in (("alice", "1 person has"), ("bob", "2 people have")):
        keys(OLD)
        db.session.commit()
        enrol(app, name)
        keys(OTHER)
        code, said = vault(app, "begin-anew", "--yes")
        assert code == 0 and f"{count} a second factor that cannot be read" in said, said
        assert name in said and "flask user second-factor-off NAME" in said
    done = app.test_cli_runner().invoke(args=["user", "second-factor-off", "bob"])
    assert done.exit_code == 0, done.output
    assert second_factor.unreadable() == ["alice"]
    db.session.rollback()
    keys(OLD)
    code, said = vault(app, "begin-anew", "--yes")
    assert code == 0 and "second factor" not in said


def test_the_first_start_seals_the_known_value(app: Flask, keys: Keys) -> None:
    key_check.prove()
    key_check.prove()
    assert db.session.query(Blob).count() == 1
    db.session.rollback()
    keys(OTHER)
    with pytest.raises(key_check.WrongKeys, match=r"Put that key back"):
        key_check.prove()
    keys(NEW, OLD)
    key_check.prove()


def test_a_database_of_an_earlier_version_knows_its_keys_too(app: Flask, keys: Keys) -> None:
    factories.variable("PSK", "stored before there was a known value")
    keys(OTHER)
    with pytest.raises(key_check.WrongKeys):
        key_check.prove()
    assert db.session.query(Blob).count() == 0
    db.session.rollback()
    keys(OLD)
    key_check.prove()


def test_two_first_starts_with_different_keys_do_not_both_go_on(app: Flask, keys: Keys) -> None:
    keys(OLD)
    make = key_check._new

    def slow() -> Blob:
        with app.app_context():
            other = Blob(id=key_check.CHECK, kind=key_check.KIND, digest="", size=0, created_at=make().created_at)
            other.data = Vault.from_text(OTHER).encrypt(b"key-check", f"blob:{key_check.CHECK}")
            db.session.add(other)
            db.session.commit()
        return make()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_check, "_new", slow)
        with pytest.raises(key_check.WrongKeys):
            key_check.prove()


def test_without_tables_nothing_is_known(app: Flask, tmp_path: Path) -> None:
    with app.app_context(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blob, "__tablename__", "nowhere")
        key_check.prove()


@pytest.fixture(scope="module")
def one_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with buckets.running(tmp_path_factory.mktemp("moto")) as bucket:
        yield bucket


def test_objects_in_a_bucket(
    one_bucket: Bucket, tmp_path: Path, redis_url: str, database: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in buckets.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    environ = {"LOCKSTEP_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url, **database, **one_bucket.settings}
    with running_app(config.load({**environ, "ENCRYPTION_KEYS": OLD})) as app, app.app_context():
        stored = {blobs.put("state", f"state {number}".encode()).id: f"state {number}" for number in range(3)}
        db.session.commit()
        lost = next(iter(stored))
        key = f"{buckets.PREFIX}/state/{lost}"
        monkeypatch.setitem(app.config, "LOCKSTEP", config.load({**environ, "ENCRYPTION_KEYS": f"{NEW},{OLD}"}))
        report = rotation.rotate()
        assert (report.changed, report.older, report.unreadable) == (3, 0, [])
        newest = Vault.from_text(NEW)
        assert {key_of(content) for content in one_bucket.objects().values()} == set(newest.key_ids)
        monkeypatch.setitem(app.config, "LOCKSTEP", config.load({**environ, "ENCRYPTION_KEYS": NEW}))
        for identifier, content in stored.items():
            assert blobs.get(identifier) == content.encode()
        db.session.rollback()
        one_bucket.remove(key)
        assert [str(one) for one in rotation.check().unreadable] == [
            f"blob.object {lost}: The object is no longer in the object store."
        ]
        # A blob that is dropped while its object is written anew leaves none behind.
        location = db.session.scalar(select(Blob.location).where(Blob.id == lost))
        where = sealed.Objects()
        db.session.rollback()
        with monkeypatch.context() as patch:
            answers = iter([location, None])
            patch.setattr(sealed.Objects, "_location", lambda *_: next(answers))
            assert not where.replace(lost, b"", b"anew")
        assert key not in one_bucket.objects()
        db.session.execute(text("DELETE FROM blob"))
        db.session.commit()
