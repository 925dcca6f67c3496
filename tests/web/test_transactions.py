"""No request makes other writers wait: a body is received, and an archive is looked at, outside any transaction."""

from __future__ import annotations

import hashlib
import io
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from extensions import db
from services import archive_child, archives
from services.storage.sqlite import read_only
from tests import factories
from tests.factories import World
from tests.support import postgres
from tests.support.client import Client
from tests.web.test_runs_list import archive

pytestmark = postgres.only_sqlite("there one writer keeps all others waiting")


class Slow(io.BytesIO):
    """A body that comes in small pieces; ``meanwhile`` is called before each."""

    def __init__(self, content: bytes, meanwhile: Callable[[], None]) -> None:
        super().__init__(content)
        self._meanwhile = meanwhile

    def read(self, size: int | None = -1) -> bytes:
        self._meanwhile()
        return super().read(64 if size is None or size < 0 else min(size, 64))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class Writer:
    """Another process that writes; ``seen`` holds whether it could, and whether the request was for reading only."""

    def __init__(self, app: Flask) -> None:
        with app.app_context():
            path = db.engine.url.database
        assert path is not None
        self._path = Path(path)
        self.seen: list[tuple[bool, bool]] = []

    def write(self) -> None:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            self.seen.append((True, read_only.get()))
        except sqlite3.OperationalError:
            self.seen.append((False, read_only.get()))
        finally:
            connection.close()


@pytest.fixture
def writer(app: Flask) -> Writer:
    return Writer(app)


def send(client: Client, world: World, meanwhile: Callable[[], None] = lambda: None, **fields: str) -> TestResponse:
    """Upload an archive piece by piece."""
    part = '--cut\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    text = "".join(part.format(*field) for field in {"csrf_token": client.token(), **fields}.items())
    text += part.format('archive"; filename="net.tar.gz', "")
    body = text.removesuffix("\r\n").encode() + archive() + b"\r\n--cut--\r\n"
    return client.post(
        f"{world.path}/changes/configurations",
        input_stream=Slow(body, meanwhile),
        content_length=len(body),
        content_type="multipart/form-data; boundary=cut",
    )


@pytest.mark.parametrize("before", [True, False])
def test_a_body_that_comes_slowly_blocks_no_writer(alice: Client, world: World, writer: Writer, before: bool) -> None:
    read_only.set(before)  # what the last request of this thread left
    assert send(alice, world, writer.write).status_code == 303
    assert len(writer.seen) > 3
    assert set(writer.seen) == {(True, False)}


def test_the_remember_cookie_is_enough(app: Flask, world: World) -> None:
    client = app.test_client()
    assert isinstance(client, Client)
    client.sign_in("alice", remember="on")
    client.delete_cookie("lockstep")
    body = b"x" * (app.config["MAX_CONTENT_LENGTH"] + 1)
    path = f"{world.path}/changes/configurations"
    assert client.post(path, data=body).status_code == 400  # read, and the form token was looked for
    client.set_cookie("lockstep_remember", "1.1|made-up")
    assert client.post(path, data=body, content_type="multipart/form-data; boundary=cut").status_code == 413


def test_looking_at_an_archive_blocks_no_writer(
    alice: Client, world: World, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = archive_child.inspect

    def slow(path: Path, limits: archives.Limits) -> archives.ArchiveInfo:
        writer.write()
        return inspect(path, limits)

    monkeypatch.setattr(archive_child, "inspect", slow)
    assert send(alice, world).status_code == 303
    assert writer.seen == [(True, False)]


def test_telling_a_second_click_by_its_archive_blocks_no_writer(
    alice: Client, world: World, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_digest = hashlib.file_digest

    def slow(*asked: Any) -> Any:
        writer.write()
        return file_digest(*asked)

    monkeypatch.setattr(hashlib, "file_digest", slow)
    assert send(alice, world, seen="0").status_code == 303
    assert writer.seen == [(True, False)]


def test_two_clicks_while_the_first_archive_is_looked_at_queue_one_run(
    app: Flask, alice: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = archive_child.inspect

    def slow(path: Path, limits: archives.Limits) -> archives.ArchiveInfo:
        with app.app_context():
            here = factories.environment()
            factories.configuration(here, path.read_bytes())
            factories.run(here)
        return inspect(path, limits)

    monkeypatch.setattr(archive_child, "inspect", slow)
    answer = send(alice, world, seen="0")
    assert answer.headers["Location"].endswith("/changes/runs/1")
    assert "#2 by alice" not in alice.get(f"{world.path}/changes/runs").get_data(as_text=True)


def test_what_a_request_may_do_ends_with_it(alice: Client, world: World) -> None:
    alice.get(f"{world.path}/changes/runs")
    assert read_only.get() is False
