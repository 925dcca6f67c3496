"""What STS can answer to a token code, and the sentence a person reads for each. Pure.

Codes and messages: AWS STS API reference and IAM user guide; observed with boto3 1.44. A row matches by the error code
and a part of the message. Wrong, expired and reused codes cannot be told apart: AWS uses the same words for them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One cause, in the two sentences that the page shows."""

    reason: str
    title: str
    advice: str

    @property
    def sentence(self) -> str:
        """Title and advice in one line."""
        return f"{self.title} {self.advice}"


_ADMIN = "The run still waits; nothing was started."


CODE_REFUSED = Answer(
    "code_refused",
    "AWS did not accept that code.",
    "Wait for a new code and try again; each code works once.",
)
SERIAL_WRONG = Answer(
    "serial_wrong",
    "AWS_MFA_SERIAL_NUMBER is not an MFA device of these access keys’ user.",
    f"Correct it among the variables. {_ADMIN}",
)
NOT_SIX_DIGITS = Answer("not_six_digits", "Enter the 6 digits shown on your device.", "Nothing was sent to AWS.")
KEYS_UNKNOWN = Answer(
    "keys_unknown",
    "AWS does not recognise AWS_ACCESS_KEY_ID.",
    f"The key was deleted, deactivated or mistyped. {_ADMIN}",
)
SECRET_WRONG = Answer("secret_wrong", "AWS_SECRET_ACCESS_KEY is wrong.", f"Set it again among the variables. {_ADMIN}")
CLOCK_WRONG = Answer(
    "clock_wrong",
    "This server’s clock is wrong.",
    f"An administrator must set it; AWS tolerates 15 minutes. {_ADMIN}",
)
TEMPORARY_KEYS = Answer(
    "temporary_keys",
    "Use long-lived IAM user keys (AKIA…).",
    f"AWS gives no MFA session for temporary keys. {_ADMIN}",
)
DENIED = Answer(
    "denied",
    "A policy forbids this user to authenticate.",
    f"An AWS administrator must allow sts:GetSessionToken. {_ADMIN}",
)
REGION_OFF = Answer(
    "region_off",
    "STS is switched off in this region.",
    f"Set another AWS_REGION, or have STS switched on. {_ADMIN}",
)
REGION_WRONG = Answer(
    "region_wrong",
    "AWS_REGION is not the name of an AWS region.",
    f"Nothing was sent to AWS. Correct AWS_REGION or AWS_DEFAULT_REGION among the variables. {_ADMIN}",
)
THROTTLED = Answer("throttled", "AWS is busy; try again with a new code.", "The run still waits.")
NO_ANSWER = Answer("no_answer", "AWS did not answer.", "The code may be used up; wait for the next one.")
UNREACHABLE = Answer(
    "unreachable",
    "This server cannot reach AWS STS.",
    "The code is not used up. An administrator must look at the network; flask doctor helps.",
)
UNKNOWN = Answer(
    "unknown",
    "AWS refused, for a reason that Lockstep does not know.",
    f"See AWS’s own words below. {_ADMIN}",
)

#: Refused here, before anything was sent to AWS.
TOO_MANY = Answer("too_many", "Too many refused codes.", "Nothing was sent to AWS.")
VARIABLES_MISSING = Answer(
    "variables_missing", "The AWS variables for MFA are not all set.", "Nothing was sent to AWS."
)
ALREADY_USED = Answer("already_used", "This code was already sent to AWS.", "It was not sent again.")

_THROWN_AWAY = "Nothing was started and the temporary credentials were thrown away."

#: AWS accepted the code, but the run had moved on meanwhile.
TOO_LATE = Answer(
    "too_late",
    "AWS accepted the code, but the run had moved on.",
    _THROWN_AWAY,
)
#: The same of the person: their access was taken away, or they were signed out everywhere.
ACCESS_ENDED = Answer(
    "access_ended",
    "AWS accepted the code, but whoever sent it lost access or was signed out meanwhile.",
    _THROWN_AWAY,
)

ALL = {answer.reason: answer for answer in (
    CODE_REFUSED, SERIAL_WRONG, NOT_SIX_DIGITS, KEYS_UNKNOWN, SECRET_WRONG, CLOCK_WRONG, TEMPORARY_KEYS, DENIED,
    REGION_OFF, REGION_WRONG, THROTTLED, NO_ANSWER, UNREACHABLE, UNKNOWN, TOO_MANY, VARIABLES_MISSING, ALREADY_USED,
    TOO_LATE, ACCESS_ENDED,
)}  # fmt: skip

#: AWS gave no verdict on these: it did not answer, or had no time.
UNANSWERED = frozenset((THROTTLED, NO_ANSWER, UNREACHABLE))

#: After this many refused codes in a row the device itself is suspected.
RESYNC_AFTER = 2
RESYNC = "Your device may be out of sync; ask an AWS admin to resynchronise it."

#: (error codes, part of the message in lower case, answer); the first match counts.
_TABLE: tuple[tuple[frozenset[str], str, Answer], ...] = (
    (frozenset({"AccessDenied"}), "invalid mfa one time pass code", CODE_REFUSED),
    (frozenset({"AccessDenied"}), "unable to validate mfa code", SERIAL_WRONG),
    (frozenset({"AccessDenied"}), "with session credentials", TEMPORARY_KEYS),
    (frozenset({"AccessDenied"}), "not authorized to perform: sts:getsessiontoken", DENIED),
    (frozenset({"ValidationError", "ParamValidationError"}), "serialnumber", SERIAL_WRONG),
    (frozenset({"ValidationError", "ParamValidationError"}), "", NOT_SIX_DIGITS),
    (frozenset({"InvalidClientTokenId"}), "", KEYS_UNKNOWN),
    (frozenset({"SignatureDoesNotMatch"}), "signature expired", CLOCK_WRONG),
    (frozenset({"SignatureDoesNotMatch"}), "signature not yet current", CLOCK_WRONG),
    (frozenset({"RequestExpired", "RequestTimeTooSkewed"}), "", CLOCK_WRONG),
    (frozenset({"SignatureDoesNotMatch"}), "", SECRET_WRONG),
    (frozenset({"RegionDisabledException"}), "", REGION_OFF),
    (frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "429"}), "",
     THROTTLED),
    (frozenset({"InternalFailure", "InternalError", "ServiceUnavailable", "ServiceUnavailableException"}), "",
     NO_ANSWER),
)  # fmt: skip


def classify(code: str, message: str, http_status: int = 400) -> Answer:
    """The row for STS's error ``code`` and ``message``; a 5xx without a known code means that AWS did not answer."""
    text = message.lower()
    for codes, part, answer in _TABLE:
        if code in codes and part in text:
            return answer
    return NO_ANSWER if http_status >= 500 else UNKNOWN
