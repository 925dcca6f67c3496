"""A bucket on moto's S3 server, behind a door that can be shut, or lead nowhere: a bucket that is away, or silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config as ClientConfig

from demo.aws.moto_process import Moto

NAME, PREFIX = "lockstep-blobs", "one/installation"
ADDRESS = f"s3://{NAME}/{PREFIX}"
#: What the server's own environment holds; moto takes any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIASERVERSOWNBUCKET", "AWS_SECRET_ACCESS_KEY": "the-servers-own-bucket-secret"}


class Bucket:
    """One bucket; ``endpoint`` is the door's."""

    def __init__(self, moto: Moto) -> None:
        self._port = moto._listening()
        self._door = _Door(self._port)
        self._client = _client(self._port)
        with contextlib.suppress(self._client.exceptions.BucketAlreadyOwnedByYou):
            self._client.create_bucket(Bucket=NAME)

    @property
    def settings(self) -> dict[str, str]:
        """Settings of an installation that keeps its blobs here."""
        return {"BLOB_STORE": ADDRESS, "BLOB_STORE_ENDPOINT": self._door.endpoint, "BLOB_STORE_REGION": "us-east-1"}

    @property
    def endpoint(self) -> str:
        """The address that can be shut."""
        return self._door.endpoint

    def away(self) -> None:
        """Every connection is cut from now on."""
        self._door.open.clear()

    def silent(self) -> None:
        """Every connection is taken, and nothing that is sent is answered from now on."""
        self._door.speaks.clear()

    def back(self) -> None:
        """It answers again; what was sent meanwhile is lost."""
        self._door.open.set()
        self._door.speaks.set()

    def objects(self) -> dict[str, bytes]:
        """What lies in it, by key."""
        listed = self._client.list_objects_v2(Bucket=NAME).get("Contents", [])
        return {each["Key"]: self.read(each["Key"]) for each in listed}

    def read(self, key: str) -> bytes:
        """One object."""
        body: bytes = self._client.get_object(Bucket=NAME, Key=key)["Body"].read()
        return body

    def write(self, key: str, content: bytes) -> None:
        """Put an object past Lockstep."""
        self._client.put_object(Bucket=NAME, Key=key, Body=content)

    def remove(self, key: str) -> None:
        """Remove an object past Lockstep."""
        self._client.delete_object(Bucket=NAME, Key=key)

    def empty(self) -> None:
        """Remove everything."""
        for key in self.objects():
            self.remove(key)

    def close(self) -> None:
        """End the door."""
        self._door.close()
        self._client.close()


def _client(port: int) -> Any:
    return botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="AKIATESTS",
        aws_secret_access_key="tests",
        config=ClientConfig(s3={"addressing_style": "path"}, proxies={}),
    )


class _Door:
    def __init__(self, port: int) -> None:
        self._port = port
        self.open, self.speaks = threading.Event(), threading.Event()
        self.open.set()
        self.speaks.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
            back.start()
            self._pass(client, server)
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and self.open.is_set():
                if not self.speaks.is_set():
                    self.speaks.wait(120)
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Bucket]:
    """A moto server with the bucket, for the length of a `with` block."""
    moto = Moto(folder / "moto.log")
    try:
        bucket = Bucket(moto)
        try:
            yield bucket
        finally:
            bucket.close()
    finally:
        moto.close()


@pytest.fixture(scope="module")
def one_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """One server for the tests of a module."""
    with running(tmp_path_factory.mktemp("moto")) as bucket:
        yield bucket


@pytest.fixture
def bucket(one_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket that answers, and the server's own credentials for it in the environment."""
    one_bucket.back()
    one_bucket.empty()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    # Where terraform's AWS is does not matter to the bucket.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    return one_bucket
