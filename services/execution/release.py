"""Whether this process was asked to leave its terraform alone: SIGTERM of a worker, for a deploy or a restart.

The signal handler only sets a flag. The follower looks at it where nothing is lost by leaving.
"""

from __future__ import annotations


class LetGo(Exception):
    """The phase is left to the next worker, with its terraform running; nothing more is to be done here."""


_asked = False


def ask(*_: object) -> None:
    """Ask this process to let go; fit to be a signal handler."""
    global _asked
    _asked = True


def reset() -> None:
    """Forget it; for a process that begins a new phase."""
    global _asked
    _asked = False


def asked() -> bool:
    """Whether somebody asked."""
    return _asked
