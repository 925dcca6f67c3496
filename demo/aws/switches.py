"""Switches that make the stand-in's STS misbehave, each for all calls or for the next few, of all actions or
of one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

SWITCHES = {
    "throttle": "400 Throttling, “Rate exceeded”; the code is not used up",
    "error500": "500 InternalFailure; the code is not used up",
    "region_disabled": "403 RegionDisabledException",
    "deny_session_token": "403 AccessDenied for GetSessionToken, as with an explicit deny in a policy",
    "silent": "takes the request and gives no answer until the switch is cleared; the code is not used up",
    "slow": "does the work, then answers after `seconds`",
    "drop": "does the work, then closes the connection without an answer",
    "malformed": "does the work, then answers 200 with XML that breaks off in the middle",
    "garbage": "does the work, then answers 200 with a page that is no XML",
    "session_cap": "sessions minted last at most `seconds`, whatever was asked for",
    "clock_offset": "the server's clock is `seconds` away from the true time (MFA devices stay on true time)",
    "long_lived_reads": "long-lived keys may read (never write) S3, EC2 and IAM",
}
WITH_SECONDS = {"slow", "session_cap", "clock_offset"}
NOT_COUNTED = {"clock_offset", "long_lived_reads"}


@dataclass
class Setting:
    """One switch that is on: seconds where it takes some, calls left (None: until it is cleared), one STS
    action.
    """

    seconds: float = 0.0
    calls: int | None = None
    action: str | None = None


class Switches:
    """The switches of one stand-in; safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._on: dict[str, Setting] = {}
        self._releases = 0

    def set(
        self, name: str, *, seconds: float | None = None, calls: int | None = None, action: str | None = None
    ) -> None:
        """Turn a switch on, for the next `calls` STS calls (of `action`) or until cleared. Raises
        ValueError.
        """
        if name not in SWITCHES:
            raise ValueError(f"There is no switch {name!r}; there are {', '.join(SWITCHES)}.")
        if (seconds is not None) != (name in WITH_SECONDS):
            raise ValueError(f"{name!r} {'needs' if name in WITH_SECONDS else 'takes no'} seconds.")
        if calls is not None and (calls < 1 or name in NOT_COUNTED):
            raise ValueError(f"{name!r} cannot be limited to {calls} calls.")
        with self._changed:
            self._on[name] = Setting(seconds or 0.0, calls, action)
            self._changed.notify_all()

    def clear(self, *names: str) -> None:
        """Turn the named switches off, or all of them."""
        with self._changed:
            for name in names or tuple(self._on):
                self._on.pop(name, None)
            if not names or "silent" in names:
                self._releases += 1
            self._changed.notify_all()

    def seconds(self, name: str) -> float:
        """The seconds of an uncounted switch; 0 while it is off."""
        with self._changed:
            return self._on[name].seconds if name in self._on else 0.0

    def is_on(self, name: str) -> bool:
        """Whether a switch is on, without spending a call."""
        with self._changed:
            return name in self._on

    def take(self, action: str) -> dict[str, Setting]:
        """The counted switches that hold for one STS call, each spending one of its calls."""
        with self._changed:
            held: dict[str, Setting] = {}
            for name, setting in list(self._on.items()):
                if name in NOT_COUNTED or setting.action not in (None, action):
                    continue
                held[name] = setting
                if setting.calls is not None:
                    setting.calls -= 1
                    if setting.calls == 0:
                        del self._on[name]
            return held

    def hold(self, stopping: Callable[[], bool]) -> None:
        """Keep one silent call waiting until `silent` is cleared (even one for few calls) or a stop."""
        with self._changed:
            held_at = self._releases
            self._changed.wait_for(lambda: self._releases != held_at or stopping())

    def wake(self) -> None:
        """Let held calls look again (the server is stopping)."""
        with self._changed:
            self._changed.notify_all()

    def as_dict(self) -> dict[str, Any]:
        """The switches that are on, for the control plane."""
        with self._changed:
            return {name: asdict(setting) for name, setting in self._on.items()}

    def apply(self, wanted: dict[str, Any]) -> None:
        """Set switches from JSON: `{"throttle": true, "slow": {"seconds": 3, "calls": 1}, "drop": false}`.

        The name `all` with false clears every one. Raises ValueError; what stood before the fault is set.
        """
        for name, value in wanted.items():
            if value is False or value is None:
                self.clear(*(() if name == "all" else (name,)))
            elif value is True:
                self.set(name)
            elif isinstance(value, int | float):
                self.set(name, seconds=float(value))
            elif isinstance(value, dict) and set(value) <= {"seconds", "calls", "action"}:
                self.set(name, **value)
            else:
                raise ValueError(f"{name!r}: true, false, seconds, or an object with seconds, calls, action.")
