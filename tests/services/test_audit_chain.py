"""The chain of audit events: whoever has the database alone can change nothing unseen, and nobody waits in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, insert, select, update

import config
from extensions import db
from models import AuditEvent, Environment
from services import audit, audit_chain, clock
from services.audit_chain import Head
from services.storage.vault import Vault
from tests import factories
from tests.factories import make_world
from tests.support import lab, postgres
from tests.support.app import running_app


@pytest.fixture
def events(app: Flask) -> Iterator[list[int]]:
    """Five events in the chain; their places."""
    with app.app_context():
        for number in range(1, 6):
            audit.record("thing.happened", None, number=number, was={"b": 1, "a": ("ü", None, 1.5)})
            db.session.commit()
        yield places()
        db.session.rollback()


def places() -> list[int]:
    return list(db.session.scalars(select(AuditEvent.sequence).order_by(AuditEvent.id)))


def told() -> list[str]:
    db.session.rollback()
    return list(audit_chain.verify())


def change(place: int, **values: Any) -> None:
    """As somebody with the database alone."""
    db.session.execute(update(AuditEvent).where(AuditEvent.sequence == place).values(**values))
    db.session.commit()


def test_events_get_places_without_a_gap_and_a_whole_chain_verifies(events: list[int]) -> None:
    assert events == [1, 2, 3, 4, 5]
    assert told() == []


def test_several_events_of_one_transaction_keep_their_order(events: list[int]) -> None:
    for name in ("first", "second", "third"):
        audit.record(f"thing.{name}", None)
        db.session.execute(select(AuditEvent.id).limit(1))  # flushes what is there
    db.session.commit()
    query = select(AuditEvent.action).where(AuditEvent.sequence > 5).order_by(AuditEvent.sequence)
    assert list(db.session.scalars(query)) == ["thing.first", "thing.second", "thing.third"]
    assert told() == []


def test_what_is_rolled_back_leaves_no_gap(events: list[int]) -> None:
    audit.record("thing.undone", None)
    db.session.flush()
    db.session.rollback()
    audit.record("thing.done", None)
    db.session.commit()
    assert places() == [1, 2, 3, 4, 5, 6]
    assert told() == []


@pytest.mark.parametrize(
    "values",
    [
        {"action": "thing.else"},
        {"actor_name": "mallory"},
        {"details": {"number": 30}},
        {"address": "192.0.2.1"},
        {"request_id": "0"},
        {"at": clock.now()},
        {"digest": "0" * 64},
        {"digest": "é"},
    ],
    ids=lambda values: next(iter(values)),
)
@pytest.mark.usefixtures("events")
def test_a_changed_event_shows(values: dict[str, Any]) -> None:
    change(3, **values)
    assert told()[0].startswith("Event 3 (")


@pytest.mark.usefixtures("events")
def test_a_removed_event_shows() -> None:
    db.session.execute(delete(AuditEvent).where(AuditEvent.sequence.in_((2, 3))))
    db.session.commit()
    assert told() == ["Events 2 to 3 are missing; what event 4 says can therefore not be checked."]


@pytest.mark.usefixtures("events")
def test_a_removed_event_whose_place_was_closed_shows() -> None:
    db.session.execute(delete(AuditEvent).where(AuditEvent.sequence == 3))
    for place in (4, 5):
        change(place, sequence=place - 1)
    assert [sentence[:7] for sentence in told()] == ["Event 3", "Event 4"]


@pytest.mark.usefixtures("events")
def test_reordered_events_show() -> None:
    for place, other in ((2, 99), (4, 2), (99, 4)):
        change(place, sequence=other)
    assert {sentence[:7] for sentence in told()} >= {"Event 2", "Event 4"}


@pytest.mark.usefixtures("events")
def test_an_inserted_event_shows_and_so_does_one_without_a_place() -> None:
    forged = {"at": clock.now(), "actor_name": "alice", "action": "run.confirm", "details": {}}
    forged |= {"address": "", "request_id": ""}
    db.session.execute(insert(AuditEvent).values(sequence=6, digest="a" * 64, **forged))
    db.session.execute(insert(AuditEvent).values(sequence=None, digest="", **forged))
    db.session.commit()
    first, second = told()
    assert first.startswith("Event 6 (run.confirm by alice")
    assert "no place of the chain" in second


@pytest.mark.usefixtures("events")
def test_the_newest_removed_show_against_a_head_that_was_noted() -> None:
    noted = audit_chain.head()
    db.session.execute(delete(AuditEvent).where(AuditEvent.sequence >= 4))
    db.session.commit()
    assert told() == []
    assert list(audit_chain.verify(noted)) == ["The chain ends with event 3, but 5 was noted: the newest were removed."]
    for number in (4, 5, 6):  # and others in their place
        audit.record("thing.forged", None, number=number)
        db.session.commit()
    assert "is not the one that was noted" in list(audit_chain.verify(noted))[0]  # noqa: RUF015  (to its end)
    assert list(audit_chain.verify(Head(0, ""))) == []


@pytest.mark.usefixtures("events")
def test_a_chain_written_anew_without_the_key_shows(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = app.config["LOCKSTEP"].vault
    with monkeypatch.context() as patch:
        patch.setattr(audit_chain, "_vault", lambda: Vault([b"g" * 32]))  # a guess
        db.session.execute(delete(AuditEvent))
        db.session.commit()
        audit.record("thing.forged", None)
        db.session.commit()
        assert told() == []
    assert audit_chain._vault() is real
    assert told()[0].startswith("Event 1 (thing.forged")


@pytest.mark.usefixtures("events")
def test_after_the_key_was_replaced_the_former_one_still_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    former, old = b"n" * 32, audit_chain._vault()._keys[0]
    monkeypatch.setattr(audit_chain, "_vault", lambda: Vault([former, old]))
    audit.record("thing.happened", None)
    db.session.commit()
    assert told() == []
    monkeypatch.setattr(audit_chain, "_vault", lambda: Vault([former]))  # the old one was dropped
    assert len(told()) == 5
    assert list(audit_chain.verify(former_keys=Vault([old]))) == []


FORGED: dict[str, Any] = {
    "actor_name": "alice", "action": "run.confirm", "details": {}, "address": "", "request_id": "", "sequence": None,
    "digest": "",
}  # fmt: skip


def forge(**values: Any) -> None:
    db.session.execute(insert(AuditEvent).values(FORGED | {"at": clock.now()} | values))
    db.session.commit()


def actions() -> list[str]:
    """Of the chain, in its order."""
    query = select(AuditEvent.action).where(AuditEvent.sequence.is_not(None)).order_by(AuditEvent.sequence)
    return list(db.session.scalars(query))


@pytest.mark.usefixtures("events")
def test_a_forged_event_in_an_emptied_log_is_never_signed() -> None:
    db.session.execute(delete(AuditEvent))
    db.session.commit()
    forge()
    audit.record("thing.happened", None)
    db.session.commit()
    assert actions() == ["audit.chain_begun", "thing.happened"]
    [sentence] = told()
    assert "no place of the chain" in sentence and "run.confirm by alice" in sentence


def test_a_chain_that_begins_in_a_database_that_was_in_use_says_so(app: Flask) -> None:
    with app.app_context():
        factories.environment()
        for name in ("first", "second"):
            audit.record(f"thing.{name}", None)
        db.session.commit()
        assert actions() == ["audit.chain_begun", "thing.first", "thing.second"]
        assert told() == []
        code, text = flask(app, "verify")
    assert code == 0
    assert "3:" in text and "begins with" in text and "cannot be told" in text


def test_a_chain_of_a_new_database_begins_with_its_first_event(app: Flask) -> None:
    with app.app_context():
        audit.record("user.create", None, user="alice")
        db.session.commit()
        assert actions() == ["user.create"]
        assert "begins" not in flask(app, "verify")[1]


@pytest.fixture
def older(app: Flask) -> Iterator[None]:
    """Three events of a version that had no chain."""
    with app.app_context():
        for number in range(1, 4):
            forge(action="thing.before", at=clock.now() - timedelta(days=9 - number))
        yield
        db.session.rollback()


@pytest.mark.usefixtures("older")
def test_an_operator_takes_over_what_is_older_than_the_chain_once(app: Flask) -> None:
    audit.record("thing.happened", None)
    db.session.commit()
    forge()  # younger than the chain, so it is of no version that had none
    code, text = flask(app, "take-over", "--yes")
    assert code == 0 and "3 events" in text
    before = ["audit.chain_begun", "thing.happened"]
    assert actions() == [*before, *["thing.before"] * 3, "audit.taken_over"]
    last = db.session.scalars(select(AuditEvent).filter_by(action="audit.taken_over")).one()
    assert last.details == {"events": 3, "places": [3, 5]}
    assert [sentence[:45] for sentence in told()] == ["An event is in no place of the chain: Lockste"]
    forge(at=clock.now() - timedelta(days=99))
    code, text = flask(app, "take-over", "--yes")
    assert code == 1 and "once" in text and "Nothing was changed" in text
    assert len(told()) == 2


@pytest.mark.usefixtures("older")
def test_taken_over_before_anything_else_they_come_first(app: Flask) -> None:
    assert flask(app, "take-over")[0] == 1, "nobody agreed"
    assert actions() == []
    assert flask(app, "take-over", "--yes")[0] == 0
    assert actions() == [*["thing.before"] * 3, "audit.taken_over"]
    assert told() == []


def test_there_may_be_nothing_to_take_over(app: Flask) -> None:
    with app.app_context():
        code, text = flask(app, "take-over", "--yes")
        assert code == 0 and "Nothing was changed" in text
        assert actions() == []


@pytest.mark.usefixtures("events")
def test_the_program_itself_neither_changes_nor_removes_events() -> None:
    event = db.session.scalars(select(AuditEvent).limit(1)).one()
    event.action = "thing.else"
    with pytest.raises(RuntimeError, match="cannot be changed: action"):
        db.session.flush()
    db.session.rollback()
    db.session.delete(db.session.scalars(select(AuditEvent).limit(1)).one())
    with pytest.raises(RuntimeError, match="cannot be removed"):
        db.session.flush()


def test_an_address_from_a_header_fits_and_holds_nothing_unprintable(app: Flask) -> None:
    with app.test_request_context(environ_base={"REMOTE_ADDR": "10.0.0.1\0\n" + "9" * 200}):
        audit.record("thing.happened", None)
        db.session.commit()
        event = db.session.scalars(select(AuditEvent)).one()
        assert event.address == "10.0.0.1" + "9" * 56


def flask(app: Flask, *arguments: str) -> tuple[int, str]:
    db.session.rollback()
    done = app.test_cli_runner().invoke(args=("audit", *arguments))
    return done.exit_code, done.output


def test_the_commands_note_a_head_and_verify_against_it(app: Flask, events: list[int], tmp_path: Path) -> None:
    code, noted = flask(app, "head")
    assert code == 0 and noted.startswith("5:")
    assert flask(app, "verify", "--head", noted.strip()) == (0, f"The chain is whole: {noted}")
    change(2, actor_name="mallory")
    code, told = flask(app, "verify")
    assert code == 1 and told.startswith("Event 2 (thing.happened by mallory") and "--former-keys" in told
    code, told = flask(app, "verify", "--head", "five")
    assert code == 2 and "64 hex digits" in told
    (tmp_path / "keys").write_text("not a key")
    assert flask(app, "verify", "--former-keys", str(tmp_path / "keys"))[0] == 2


PEOPLE, EACH = 6, 15


def test_many_at_once_on_postgresql_make_one_chain_without_a_gap(
    tmp_path: Path, redis_url: str, postgres_server: postgres.Server
) -> None:
    """Transactions that touch rows in any order, hold them for update, and roll back now and then: no dead lock."""
    environ = {"LOCKSTEP_HOME": str(tmp_path), "REDIS_URL": redis_url, "DATABASE_URL": postgres_server.database()}
    with running_app(config.load(environ)) as app:
        make_world(app)
        with app.app_context():
            ids = [factories.environment(name).id for name in ("network", "shelf")]
            audit.record("thing.happened", None)
            db.session.commit()
            before = audit_chain.head().sequence
        start = threading.Barrier(PEOPLE)
        people = [lab.Beside(app, partial(_busy, start, ids, number)) for number in range(PEOPLE)]
        with app.app_context():
            kept = sum(person.result(120) for person in people)
            query = select(AuditEvent.sequence).where(AuditEvent.sequence > before).order_by(AuditEvent.sequence)
            assert list(db.session.scalars(query)) == list(range(before + 1, before + kept + 1))
            assert list(audit_chain.verify()) == []


def _busy(start: threading.Barrier, ids: list[int], number: int) -> int:
    kept = 0
    start.wait(30)
    for turn in range(EACH):
        # Every second one takes the row so that nobody can name it meanwhile.
        mine = ids[turn % 2]
        if number % 2:
            db.session.execute(select(Environment.id).where(Environment.id == mine).with_for_update())
        environment = db.session.get_one(Environment, mine)
        assert environment.organization  # loaded: from here on nothing is flushed before the commit
        audit.record("thing.happened", None, environment=environment)
        audit.record("thing.happened", None, environment=environment, turn=turn)
        if (turn + number) % 5 == 0:
            db.session.rollback()
        else:
            db.session.commit()
            kept += 2
    return kept
