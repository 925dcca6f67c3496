"""What terraform's last words mean for a person. Pure."""

from __future__ import annotations

import re

#: Terraform wraps its words at 78 columns and draws a frame beside them.
_WRAPPED = re.compile(r"\s*\n[│╷╵\s]*")
_ANSI = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
#: What is left of control characters then, and those that turn the direction of writing around; not tab and newline.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_SESSION_OVER = "The MFA session ended during the run.", "Finished resources are saved. Queue a new run."
_PLAN = "Queue a new plan."

#: part of terraform's output, error code, sentence, what follows; the first match counts
_CAUSES = (
    ("Saved plan is stale", "stale_plan",
     "The plan is stale: the state changed after it was made. Nothing was applied.", _PLAN),
    ("Saved plan does not match the given state", "stale_plan",
     "The plan belongs to another state. Nothing was applied.", _PLAN),
    ("ExpiredToken", "session_over", *_SESSION_OVER),
    ("security token included in the request is expired", "session_over", *_SESSION_OVER),
    ("not authorized to perform: sts:AssumeRole", "role_refused",
     "The role does not trust this user or its MFA session. Look at the role’s trust policy.", ""),
    ("InvalidClientTokenId", "keys_unknown", "AWS does not recognise the access key. Look at the AWS variables.", ""),
)  # fmt: skip

#: What stays of a phase that was stopped.
KEPT = {
    "plan": "Nothing was changed.",
    "apply": "What was finished is in the state; look in AWS for what was in flight (see the log).",
}

#: Why Lockstep asked terraform to stop → error code, sentence (``kind`` of the phase, ``limit`` in words), what follows
#: after :data:`KEPT` where the state is stored.
LIMITS = {
    "time_limit": (
        "time_limit",
        "The {kind} took longer than {limit}, so terraform was asked to stop.",
        "Look at what it was waiting for before you queue a new run.",
    ),
    "session_over": (
        "session_over",
        "The MFA session was about to end, so terraform was asked to stop.",
        "Queue a new run.",
    ),
}

#: The error code of a run whose newest state is nowhere but in its working directory, whatever ended it.
STATE_UNKEPT = "state_unkept"


def plain(text: str) -> str:
    """``text`` without colour and other control sequences."""
    return _CONTROL.sub("", _ANSI.sub("", text))


def explain(output: str, phase: str, exit_code: int | None) -> tuple[str, str, str]:
    """(error code, sentence, what follows) for a phase that failed; ``output`` is the end of its log.

    What follows holds only where the state is stored: that things are saved, and that a new plan can be queued.
    Terraform's own first "Error: …" line is quoted where no better sentence is known.
    """
    if exit_code is not None and exit_code < 0:
        return "terraform_killed", *_killed(phase, -exit_code)
    text = plain(output)
    unwrapped = _WRAPPED.sub(" ", text)
    for part, code, sentence, then in _CAUSES:
        if part in unwrapped:
            return code, sentence, then
    found = re.search(r"^[│╷\s]*Error: (.{1,300})", text, re.MULTILINE)
    said = f": {found.group(1).strip().rstrip('.')}" if found else ""
    ended = "" if exit_code is None else f" (exit code {exit_code})"
    return "terraform_failed", f"Terraform ended with an error in the {phase}{ended}{said}. See the log.", ""


def _killed(phase: str, signal: int) -> tuple[str, str]:
    """It did not end by itself, so its last words say nothing of why, nor of how far it got."""
    memory = "; a system that runs out of memory does so" if signal == 9 else ""
    left, then = (
        ("What it was working on may exist in AWS without being in the state.", "Look there, then queue a new plan.")
        if phase == "apply"
        else ("Nothing was changed.", _PLAN)
    )
    return f"Terraform was killed (signal {signal}) in the {phase}{memory}. {left}", then
