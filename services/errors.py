"""What services raise. blueprints/errors.py maps each to a page or fragment in one place.

Every text is a plain sentence for a person: what happened, whether anything was changed, what to do.
"""

from __future__ import annotations


class LockstepError(Exception):
    """Base; ``str()`` is the sentence."""


class Invalid(LockstepError):
    """A field of a form is wrong (422). ``field`` is the form field's name."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class NotFound(LockstepError):
    """Nothing there, or nothing that this person may know about (404)."""


class Forbidden(LockstepError):
    """A member may see it but not do it (403)."""


class SecondFactorNeeded(Forbidden):
    """The organization requires a second factor, and this person has none yet."""


class Conflict(LockstepError):
    """Somebody or something was faster (409): the status moved on, the environment is held or locked."""


class Outdated(Conflict):
    """What a form would change is not what its page showed. ``fields``: for each such field, what it is now."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


class CodeRejected(LockstepError):
    """The gate said no. ``reason`` is that of a row of policy/sts_answers.py; ``waiting`` seconds to wait, if known."""

    status = 422

    def __init__(self, reason: str, sentence: str, *, waiting: int | None = None) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.waiting = waiting


class TooManyAttempts(CodeRejected):
    """The limit of attempts is reached (429); ``waiting`` seconds until the next is allowed."""

    status = 429


class ServiceAway(LockstepError):
    """The database or Redis does not answer (503)."""
