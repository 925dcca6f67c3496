"""How long to wait after so many failures. The delay grows and ends: nobody is locked out for good."""

from __future__ import annotations

from datetime import timedelta

#: Failures are forgotten after so long without one.
WINDOW = timedelta(minutes=15)
LONGEST = timedelta(minutes=5)

#: How many failures cost no time: of one account, and of one address, behind which many people may be.
FREE_OF_ACCOUNT = 5
FREE_OF_ADDRESS = 20


def delay(failures: int, free: int) -> timedelta:
    """The wait after the ``failures``-th failure in a row: none up to ``free`` - 1, then 2 s, 4 s … 5 min."""
    if failures < free:
        return timedelta()
    return min(LONGEST, timedelta(seconds=2 ** min(failures - free + 1, 20)))
