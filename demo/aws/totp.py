"""Time-based one-time passwords as AWS's virtual MFA devices make them (RFC 6238, SHA-1, 30 s, six
digits).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

STEP_SECONDS = 30
DIGITS = 6
WINDOW = (0, 1, -1)
"""Steps around the present one whose codes are accepted, in the order in which a fresh code is offered: the
present one is what a device shows, the next one stays valid longest, the previous one only until the step
ends."""


def new_secret() -> str:
    """A random device seed: 20 bytes, base32 without padding."""
    return base64.b32encode(secrets.token_bytes(20)).decode("ascii")


def step_at(seconds: float) -> int:
    """The number of the 30 s step that holds a Unix time."""
    return int(seconds // STEP_SECONDS)


def code(secret: str, step: int) -> str:
    """The six digits a device with this seed shows during `step` (RFC 4226, dynamic truncation)."""
    key = base64.b32decode(secret)
    digest = hmac.new(key, step.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def matching_steps(secret: str, typed: str, now: float) -> list[int]:
    """The steps inside the window whose code is `typed`; empty for a wrong or expired code."""
    present = step_at(now)
    return [
        present + offset
        for offset in WINDOW
        if hmac.compare_digest(code(secret, present + offset).encode(), typed.encode())
    ]
