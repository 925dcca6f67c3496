"""An S3 bucket for blobs: put, get, delete and list, with one kind of error for a bucket that is away.

What gets here is encrypted already. The credentials are those of the server itself, by botocore's usual chain
(environment, ~/.aws, the role of the machine); terraform never sees them (services/execution/environ.py).
``BLOB_STORE_ENDPOINT`` alone decides where the bucket is: the AWS_ENDPOINT_URL settings are terraform's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import botocore.session
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody
from flask import current_app

from config import Config
from services.errors import ServiceAway

#: A bucket that does not answer is given up after this many seconds, far within a lease (policy/lifecycle.py); whoever
#: must not give up tries again.
CONNECT_SECONDS, READ_SECONDS = 2, 5

#: One that answers byte by byte keeps within `READ_SECONDS` for ever. It has this long in all for what it answers, and
#: as long for each part of the content, in bytes.
ANSWER_SECONDS, PART = 8.0, 1 << 20

#: Calls of a process at one time, with those that were given up and still wait for their next byte.
_MOST_CALLS = 64
THREAD = "object store"

#: A call that failed sooner than this is tried once more at once: a connection that the bucket had closed, say.
SOON = 1.0

# At DEBUG botocore logs the credentials' signatures and the bodies.
logging.getLogger("botocore").setLevel(logging.INFO)

log = logging.getLogger(__name__)

T = TypeVar("T")

_GONE = frozenset({"NoSuchKey", "404", "NotFound"})


class StoreAway(ServiceAway):
    """The bucket does not answer or refuses; ``reason`` is the short name of how, such as AccessDenied."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The object store does not take or give anything ({reason}). Nothing was changed; try again in a moment."
        )
        self.reason = reason


class ObjectGone(Exception):
    """There is no such object."""


@dataclass(frozen=True)
class Listed:
    """An object of a listing: its address and when it was stored."""

    address: str
    stored_at: datetime


def put(address: str, content: bytes) -> None:
    """Store ``content`` at ``address`` (``s3://bucket/key``). Raises :class:`StoreAway`."""
    bucket, key = _parts(address)
    _ask("put_object", Bucket=bucket, Key=key, Body=content, ContentType="application/octet-stream")


def get(address: str) -> bytes:
    """What is stored there. Raises :class:`ObjectGone`, :class:`StoreAway`."""
    bucket, key = _parts(address)
    body: bytes = _ask("get_object", Bucket=bucket, Key=key)["Body"]
    return body


def beginning(address: str, size: int) -> bytes:
    """The first ``size`` bytes of what is stored there. Raises :class:`ObjectGone`, :class:`StoreAway`."""
    bucket, key = _parts(address)
    body: bytes = _ask("get_object", Bucket=bucket, Key=key, Range=f"bytes=0-{size - 1}")["Body"]
    return body[:size]


def delete(address: str) -> None:
    """Remove an object; one that is not there is no error. Raises :class:`StoreAway`."""
    bucket, key = _parts(address)
    _ask("delete_object", Bucket=bucket, Key=key)


def listing(address: str) -> Iterator[Listed]:
    """Every object whose address begins so. Raises :class:`StoreAway`."""
    bucket, prefix = _parts(address)
    more: dict[str, str] = {}
    while True:
        page = _ask("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for found in page.get("Contents", ()):
            yield Listed(f"s3://{bucket}/{found['Key']}", found["LastModified"])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _parts(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def _ask(operation: str, **arguments: Any) -> dict[str, Any]:
    began = time.monotonic()
    try:
        return _ask_once(operation, **arguments)
    except StoreAway:
        if time.monotonic() - began >= SOON:
            raise
    return _ask_once(operation, **arguments)


def _ask_once(operation: str, **arguments: Any) -> dict[str, Any]:
    """One call; a body is read to its end, so that a connection lost half-way is told as one."""
    try:
        client, calls = _client(arguments["Bucket"])
        ask, parts = getattr(client, operation), 1 + len(arguments.get("Body", b"")) // PART
        answer: dict[str, Any] = _within(ANSWER_SECONDS * parts, calls, lambda: ask(**arguments))
        if operation == "get_object":
            answer["Body"] = _content(answer["Body"], calls)
        return answer
    except ClientError as error:
        code = re.sub(r"[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))[:60] or "no reason"
        if operation == "get_object" and code in _GONE:
            raise ObjectGone from None
        reason = code
    except (BotoCoreError, HTTPClientError, ResponseParserError, OSError, ValueError) as error:
        # Only the kind: its text can name hosts and quote answers.
        reason = type(error).__name__
    log.warning("the object store: %s: %s", operation, reason)
    raise StoreAway(reason) from None


def _content(body: StreamingBody, calls: threading.Semaphore) -> bytes:
    parts = []
    try:
        while part := _within(ANSWER_SECONDS, calls, lambda: body.read(PART)):
            parts.append(part)
    except TimeoutError:
        with contextlib.suppress(AttributeError):  # it was read at this moment
            body.set_socket_timeout(0.001)  # whoever still waits for its next byte gives up, too
        raise
    return b"".join(parts)


def _within(seconds: float, calls: threading.Semaphore, call: Callable[[], T]) -> T:
    """What `call` returns or raises; TimeoutError after `seconds`, when its thread is left to itself.

    A socket's own time-out counts from byte to byte, and botocore gives nobody the socket of a call.
    """
    answer: Future[T] = Future()

    def _work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)
        finally:
            calls.release()

    if not calls.acquire(timeout=seconds):
        raise TimeoutError
    try:
        threading.Thread(target=_work, name=THREAD, daemon=True).start()
    except RuntimeError as error:  # no thread to be had
        calls.release()
        raise OSError from error
    return answer.result(seconds)


class _Connection(NamedTuple):
    client: Any
    calls: threading.Semaphore


_making = threading.Lock()


def _client(bucket: str) -> _Connection:
    """The client of this process: connections do not go through a fork. One is enough for all threads."""
    made: dict[tuple[int, str], _Connection] = current_app.extensions.setdefault("lockstep-object-store", {})
    mine = (os.getpid(), bucket)
    with _making:
        if mine not in made:
            made.clear()
            client = _new_client(current_app.config["LOCKSTEP"], bucket)
            made[mine] = _Connection(client, threading.BoundedSemaphore(_MOST_CALLS))
        return made[mine]


def _new_client(config: Config, bucket: str) -> Any:
    session = botocore.session.Session()
    region = config.blob_store_region or session.get_config_variable("region") or "us-east-1"
    endpoint = config.blob_store_endpoint
    # Its published types lack a setting, so the settings are a dictionary.
    settings: dict[str, Any] = dict(  # noqa: C408
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        proxies=config.proxies_for(endpoint or f"https://{bucket}.s3.{region}.amazonaws.com"),
        ignore_configured_endpoint_urls=True,
        # A FIPS endpoint is AWS's own; and S3-compatible stores know no subdomains and no newer checksums.
        use_fips_endpoint=not endpoint and config.operator.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true",
        s3={"addressing_style": "path"} if endpoint else {},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    verify = config.operator.get("AWS_CA_BUNDLE")
    return session.create_client(
        "s3", region_name=region, endpoint_url=endpoint, verify=verify or None, config=ClientConfig(**settings)
    )
