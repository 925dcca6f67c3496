"""Two clocks: true time, which MFA devices keep, and the server's, which a switch can move."""

from __future__ import annotations

import time
from collections.abc import Callable

from demo.aws.switches import Switches


class Clock:
    """`true` and `server` in Unix seconds. The offset lives in the switch `clock_offset`."""

    def __init__(self, switches: Switches, true_time: Callable[[], float] = time.time) -> None:
        self._switches = switches
        self.true = true_time

    def server(self) -> float:
        """What the server takes for the time: signatures and sessions are judged by it."""
        return self.true() + self._switches.seconds("clock_offset")
