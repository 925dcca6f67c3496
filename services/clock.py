"""The one clock, so that tests can move it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present time, aware, UTC, whole microseconds."""
    return datetime.now(UTC)
