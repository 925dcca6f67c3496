"""What several people ask for at the same moment, made once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Answers that are kept for ``seconds``, ``most`` of them, in this process. Nothing in them may belong to a person.

    Whoever asks for one while it is being made waits for it: many who come at once cost what one costs.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.seconds = seconds
        self._most = most
        self._kept: dict[object, tuple[float, Future[T]]] = {}
        self._lock = threading.Lock()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """What is kept under ``key``, or else what ``make`` answers now. Raises what ``make`` raises."""
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(key)
            mine = kept is None or (kept[1].done() and now - kept[0] >= self.seconds)
            if kept is None or mine:
                kept = (now, Future())
                self._keep(key, kept)
        if not mine:
            try:
                return kept[1].result()
            except Exception:  # its maker's trouble, a lost connection say, need not be this one's
                return make()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                if self._kept.get(key) is kept:
                    del self._kept[key]
            kept[1].set_exception(error)
            raise
        kept[1].set_result(made)
        return made

    def _keep(self, key: object, kept: tuple[float, Future[T]]) -> None:
        if len(self._kept) >= self._most:
            self._kept = {k: v for k, v in self._kept.items() if not v[1].done() or kept[0] - v[0] < self.seconds}
        if len(self._kept) < self._most:
            self._kept[key] = kept
