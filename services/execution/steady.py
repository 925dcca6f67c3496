"""Doing a piece of bookkeeping until the database takes it: a database that is away delays the end of a phase only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from extensions import db

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What a driver raises for a database that is away or busy.
AWAY = (OperationalError, InterfaceError)

#: Seconds between two tries.
PAUSE = 0.5


def steadily(call: Callable[[], T]) -> T:
    """The answer of ``call``, tried again after a rollback for as long as the database is away.

    ``call`` makes its whole transaction, the commit included, and can stand being repeated.
    """
    while True:
        try:
            return call()
        except AWAY as error:
            log.warning("the database is away: %s", type(error.orig).__name__)
            try:
                db.session.rollback()
            except AWAY:
                db.session.close()
            time.sleep(PAUSE)
