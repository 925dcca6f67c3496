"""Doing a piece of bookkeeping until the database, and the bucket, take it.

One that is away delays the end of a phase and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from redis.exceptions import RedisError
from sqlalchemy.exc import InterfaceError, OperationalError

from extensions import db
from services.storage.object_store import StoreAway

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What a driver raises for a database that is away or busy, and what stands for a bucket that is.
AWAY = (OperationalError, InterfaceError, StoreAway)

Away = OperationalError | InterfaceError | StoreAway

#: Seconds between two tries.
PAUSE = 0.5


def steadily(call: Callable[[], T], meanwhile: Callable[[StoreAway], object] | None = None) -> T:
    """The answer of ``call``, tried again after a rollback for as long as the database or the bucket is away.

    ``call`` makes its whole transaction, the commit included, and can stand being repeated. ``meanwhile`` is called
    between two tries while only the bucket is away, with how it is.
    """
    while True:
        try:
            return call()
        except AWAY as error:
            tell(error)
            start_over()
            time.sleep(PAUSE)
            if meanwhile is not None and isinstance(error, StoreAway):
                try:
                    meanwhile(error)
                except AWAY as another:
                    tell(another)
                    start_over()


def start_over() -> None:
    """End the transaction, whatever it met with, so that the session can be used again."""
    try:
        db.session.rollback()
    except AWAY:
        db.session.close()


@contextlib.contextmanager
def apart(what: str) -> Iterator[None]:
    """One piece of looking after things: a fault in it is logged, by its type alone, and stops nothing that follows.

    What is away is raised: the pieces that follow need it too.
    """
    try:
        yield
    except (*AWAY, RedisError):
        raise
    except Exception as error:
        log.error("%s: %s", what, type(error).__name__)
        db.session.rollback()


def tell(error: Away) -> None:
    """Write into the worker's log what is away, and nothing of the error's own text."""
    if isinstance(error, StoreAway):
        log.warning("the object store is away: %s", error.reason)
    else:
        log.warning("the database is away: %s", type(error.orig).__name__)
