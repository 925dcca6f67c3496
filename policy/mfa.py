"""When a token code is needed, and what the padlock shows. Pure rules."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum

#: A code is six ASCII digits; botocore itself would let "1234567" and full-width digits pass.
TOKEN_CODE = re.compile(r"[0-9]{6}", re.ASCII)

#: Credentials with less than this left are not given to a child: the run goes back to waiting.
LEAST_REMAINING = timedelta(minutes=5)

#: Terraform is asked to stop this long before its credentials end, so that it can still save its state with them.
SESSION_MARGIN = timedelta(minutes=1)

#: A TOTP step (RFC 6238) and how long a code can stay acceptable to AWS: its own step and one on each side.
TOTP_STEP = timedelta(seconds=30)
CODE_LIFETIME = timedelta(seconds=90)

#: At most this many refused codes in the window, for each person and for each device.
ATTEMPT_LIMIT = 5
ATTEMPT_WINDOW = timedelta(minutes=15)

#: DurationSeconds of GetSessionToken for an IAM user (AWS STS API reference): least, most; and our default.
SESSION_LEAST, SESSION_MOST, SESSION_DEFAULT = 900, 129_600, 3_600


class PhaseKind(StrEnum):
    """The two halves of a run that a gate can stand before."""

    PLAN = "plan"
    APPLY = "apply"


class MfaLevel(StrEnum):
    """The environment's setting "AWS Multi-Factor Authentication"; values are the words on the page."""

    NEVER = "never"
    APPLIES_ONLY = "applies only"
    PLANS_AND_APPLIES = "plans and applies"

    @property
    def strictness(self) -> int:
        """0 for never, 1 for applies only, 2 for plans and applies."""
        return list(MfaLevel).index(self)

    def demands(self, phase: PhaseKind) -> bool:
        """Whether this level asks for a code before ``phase``."""
        return self is MfaLevel.PLANS_AND_APPLIES or (self is MfaLevel.APPLIES_ONLY and phase is PhaseKind.APPLY)


class Lock(StrEnum):
    """What the padlock of a phase shows; each has an icon, a tone and words (never colour alone)."""

    WAITING = "Awaiting authentication"
    FAILED = "Authentication failed"
    OPEN = "Authenticated with MFA"


def stricter(one: MfaLevel, other: MfaLevel) -> MfaLevel:
    """The stricter of the level a run was created with and the environment's present one."""
    return max(one, other, key=lambda level: level.strictness)


def normalise_code(text: str) -> str | None:
    """The six digits of what a person typed or pasted ("123 456", "123-456"), or None when it is something else."""
    code = re.sub(r"[ \t\r\n\u00a0\u2009\u202f-]", "", text, flags=re.ASCII)
    return code if TOKEN_CODE.fullmatch(code) else None


def waiting_time(failures: list[datetime], now: datetime) -> timedelta | None:
    """How long a person or device must wait after ``failures``, the times of refusals; None for not at all."""
    recent = sorted(at for at in failures if now - at < ATTEMPT_WINDOW)
    if len(recent) < ATTEMPT_LIMIT:
        return None
    return recent[-ATTEMPT_LIMIT] + ATTEMPT_WINDOW - now


def next_code_in(now: datetime) -> int:
    """Seconds until the device shows its next code: 1 to 30."""
    step = int(TOTP_STEP.total_seconds())
    return step - int(now.timestamp()) % step


def usable(expires_at: datetime, now: datetime) -> bool:
    """Whether credentials that end at ``expires_at`` live long enough to start a phase with them."""
    return expires_at - now >= LEAST_REMAINING
