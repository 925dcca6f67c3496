"""A bucket that answers byte by byte: it keeps nobody longer than one that is silent."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

import config
from services.storage import object_store
from tests.support.app import running_app
from tests.support.bucket import CREDENTIALS

ADDRESS = "s3://lockstep-blobs/one"
LISTED = b'<?xml version="1.0"?><ListBucketResult><Name>lockstep-blobs</Name>'


class Trickle:
    """A server that sends ``at_once`` and then a letter every 20 ms, for as long as somebody listens."""

    def __init__(self) -> None:
        self.at_once = b""
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.asked += 1
                self._threads.append(threading.Thread(target=self._one, args=(client,), daemon=True))
                self._threads[-1].start()

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(1 << 16)
            client.sendall(self.at_once)
            while not self._over.wait(0.02):
                client.sendall(b"a")

    def close(self) -> None:
        """End all that is being answered."""
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def trickle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trickle]:
    server = Trickle()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "ANSWER_SECONDS", 1.0)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def installation(tmp_path: Path, redis_url: str, trickle: Trickle) -> Iterator[Flask]:
    where = {"BLOB_STORE": "s3://lockstep-blobs", "BLOB_STORE_ENDPOINT": trickle.endpoint}
    home = {"LOCKSTEP_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url}
    with running_app(config.load(home | where)) as app, app.app_context():
        yield app


def begins(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


def waiting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == object_store.THREAD]


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    ("call", "at_once"),
    [
        (lambda: object_store.put(ADDRESS, b"content"), b"HTTP/1.1 200 OK\r\nX-Amz-Id: "),
        (lambda: list(object_store.listing(ADDRESS)), begins(10**9) + LISTED),
        (lambda: object_store.get(ADDRESS), begins(10**9)),
    ],
    ids=["in its head", "in a list", "in an object"],
)
def test_it_is_given_up(trickle: Trickle, call: Callable[[], object], at_once: bytes) -> None:
    trickle.at_once = at_once
    began = time.monotonic()
    with pytest.raises(object_store.StoreAway) as away:
        call()
    assert away.value.reason == "TimeoutError"
    assert 1 <= time.monotonic() - began < 4


@pytest.mark.usefixtures("installation")
def test_nothing_goes_on_reading_an_object_that_was_given_up(trickle: Trickle) -> None:
    trickle.at_once = begins(10**9)
    with pytest.raises(object_store.StoreAway):
        object_store.get(ADDRESS)
    until = time.monotonic() + 10
    while waiting() and time.monotonic() < until:
        time.sleep(0.02)
    assert not waiting()


@pytest.mark.usefixtures("installation")
def test_what_is_slow_and_gets_on_is_waited_for(trickle: Trickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PART", 10)
    trickle.at_once = begins(100)
    began = time.monotonic()
    assert object_store.get(ADDRESS) == b"a" * 100
    assert time.monotonic() - began > 1, "longer than one part may take"


@pytest.mark.usefixtures("installation")
def test_no_more_is_asked_while_too_much_was_given_up(trickle: Trickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_MOST_CALLS", 2)
    trickle.at_once = b"HTTP/1.1 200 OK\r\nX-Amz-Id: "
    for asked in (1, 2, 2):
        with pytest.raises(object_store.StoreAway):
            object_store.delete(ADDRESS)
        assert (trickle.asked, len(waiting())) == (asked, asked)
