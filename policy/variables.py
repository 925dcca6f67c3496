"""Rules for variables: their names and values, which of several scopes wins, and the names AWS gives meaning.

Outside facts: Terraform's "Environment Variables" and "Input Variables" pages, the AWS SDKs' reference of
settings, IAM's API reference for access keys, STS's for `SerialNumber`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

ACCESS_KEY = "AWS_ACCESS_KEY_ID"
SECRET_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105  (a name, not a secret)
MFA_SERIAL = "AWS_MFA_SERIAL_NUMBER"
REQUIRED_FOR_MFA = (ACCESS_KEY, SECRET_KEY, MFA_SERIAL)
REGION = "AWS_REGION"
DEFAULT_REGION = "AWS_DEFAULT_REGION"
REGION_NAMES = (REGION, DEFAULT_REGION)

TERRAFORM = "terraform"
ENVIRONMENT = "env"
LONGEST_NAME = 128
SHORTEST_HIDDEN = 4  # characters; replacing shorter texts would make a log unreadable
LARGEST_VALUE = 256 * 1024  # bytes of UTF-8

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Terraform's identifiers may have hyphens (https://developer.hashicorp.com/terraform/language/syntax/configuration).
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SERIAL = re.compile(r"[\w+=/:,.@-]{9,256}", re.ASCII)
_REGION = re.compile(r"(?=.{1,63}\Z)[a-z][a-z0-9]*(-[a-z0-9]+)*")
_KEY_ID = re.compile(r"\w{1,128}", re.ASCII)
# Terraform: "The name of a variable can be any valid identifier except the following".
_MODULE_ARGUMENTS = frozenset(
    ("source", "version", "providers", "count", "for_each", "lifecycle", "depends_on", "locals")
)


_PROGRAM = "it changes how programs of the run are started"
_FIXED = "Lockstep sets it for each run"
_TRUST = "connections and their certificates are set by the operator of Lockstep"
_OTHER_KEYS = "a run uses only the keys of this page, so that MFA cannot be passed by"
_ENDPOINT = "only the operator of Lockstep decides which servers AWS calls go to"
_STATE = "Lockstep keeps the state and the working directory itself"
_GIT = "it makes Git run or read something else"

# A name, or a beginning followed by "*", and why it may not be set.
_REFUSED: dict[str, str] = {
    "PATH": _FIXED, "HOME": _FIXED, "PWD": _FIXED, "TMPDIR": _FIXED, "TMP": _FIXED, "TEMP": _FIXED,
    "USER": _FIXED, "LOGNAME": _FIXED, "SHELL": _FIXED,
    "LD_*": _PROGRAM, "DYLD_*": _PROGRAM, "PYTHON*": _PROGRAM, "PERL5*": _PROGRAM, "RUBYOPT": _PROGRAM,
    "RUBYLIB": _PROGRAM, "NODE_OPTIONS": _PROGRAM, "NODE_PATH": _PROGRAM, "JAVA_TOOL_OPTIONS": _PROGRAM,
    "GODEBUG": _PROGRAM, "BASH_ENV": _PROGRAM, "BASHOPTS": _PROGRAM, "ENV": _PROGRAM, "IFS": _PROGRAM,
    "SHELLOPTS": _PROGRAM, "PROMPT_COMMAND": _PROGRAM, "PS4": _PROGRAM, "CDPATH": _PROGRAM,
    "GIT_SSH": _GIT, "GIT_SSH_COMMAND": _GIT, "GIT_EXEC_PATH": _GIT, "GIT_CONFIG*": _GIT, "GIT_ASKPASS": _GIT,
    "GIT_PROXY_COMMAND": _GIT, "GIT_EXTERNAL_DIFF": _GIT, "GIT_EDITOR": _GIT, "GIT_PAGER": _GIT,
    "GIT_TEMPLATE_DIR": _GIT, "SSH_ASKPASS": _GIT,
    "SSL_CERT_FILE": _TRUST, "SSL_CERT_DIR": _TRUST, "AWS_CA_BUNDLE": _TRUST, "CURL_CA_BUNDLE": _TRUST,
    "REQUESTS_CA_BUNDLE": _TRUST, "NODE_EXTRA_CA_CERTS": _TRUST,
    "AWS_ENDPOINT_URL*": _ENDPOINT, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": _ENDPOINT,
    "AWS_EC2_METADATA_*": _ENDPOINT,
    "AWS_ACCESS_KEY": f"its name is {ACCESS_KEY}", "AWS_SECRET_KEY": f"its name is {SECRET_KEY}",
    "AWS_PROFILE": _OTHER_KEYS, "AWS_DEFAULT_PROFILE": _OTHER_KEYS, "AWS_CONFIG_FILE": _OTHER_KEYS,
    "AWS_SHARED_CREDENTIALS_FILE": _OTHER_KEYS, "AWS_CREDENTIAL_FILE": _OTHER_KEYS,
    "AWS_WEB_IDENTITY_TOKEN_FILE": _OTHER_KEYS, "AWS_CONTAINER_*": _OTHER_KEYS,
    "AWS_SESSION_TOKEN": "Lockstep makes the session itself, from long-lived keys and a code",
    "AWS_SECURITY_TOKEN": "Lockstep makes the session itself, from long-lived keys and a code",
    "TF_CLI_CONFIG_FILE": _TRUST, "TERRAFORM_CONFIG": _TRUST,
    "TF_DATA_DIR": _STATE, "TF_WORKSPACE": _STATE, "TF_LOG_PATH": _STATE, "TF_TEMP_LOG_PATH": _STATE,
    "TF_INPUT": _FIXED, "TF_IN_AUTOMATION": _FIXED, "CHECKPOINT_DISABLE": _FIXED,
    "TF_REATTACH_PROVIDERS": _PROGRAM, "TF_PLUGIN_*": _PROGRAM, "TF_FORK": _PROGRAM,
    "LOCKSTEP_*": "names that begin with LOCKSTEP_ belong to Lockstep",
}  # fmt: skip
_REFUSED_EXACTLY = {name: why for name, why in _REFUSED.items() if not name.endswith("*")}
_REFUSED_BEGINNINGS = [(name[:-1], why) for name, why in _REFUSED.items() if name.endswith("*")]
#: Older names for a service's endpoint, which Terraform's S3 backend and the AWS provider still read.
_SERVICE_ENDPOINT = re.compile(r"(TF_)?AWS_[A-Z0-9_]+_ENDPOINT")
_PROXIES = frozenset(("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "FTP_PROXY"))

_CLI_ARGUMENTS = ("TF_CLI_ARGS_init", "TF_CLI_ARGS_plan", "TF_CLI_ARGS_apply")
_CLI_FLAG = re.compile(
    r"--?(parallelism=[1-9][0-9]{0,2}|refresh(=(true|false))?|compact-warnings|lock-timeout=[0-9]{1,5}(s|m|h))"
)


def _refusal(name: str) -> str | None:
    if name in _REFUSED_EXACTLY:
        return _REFUSED_EXACTLY[name]
    if name.upper() in _PROXIES:  # programs read these in either case
        return _TRUST
    if _SERVICE_ENDPOINT.fullmatch(name):
        return _ENDPOINT
    if name.startswith("TF_CLI_ARGS") and name not in _CLI_ARGUMENTS:
        return "Lockstep decides how Terraform is called"
    return next((why for beginning, why in _REFUSED_BEGINNINGS if name.startswith(beginning)), None)


def check_name(name: str, category: str) -> str | None:
    """A sentence on what is wrong with a name, or None. The category is "terraform" or "env"."""
    if not name:
        return "Enter a name."
    if len(name) > LONGEST_NAME:
        return f"A name has at most {LONGEST_NAME} characters."
    if category == TERRAFORM:
        if not _IDENTIFIER.fullmatch(name):
            return "A name has only letters A to Z, digits, underscores and hyphens, and begins with a letter or _."
        if name in _MODULE_ARGUMENTS:
            return f"{name} cannot be set: Terraform reserves this name."
        return None
    if not _NAME.fullmatch(name):
        return "A name has only letters A to Z, digits and underscores, and does not begin with a digit."
    why = _refusal(name)
    return None if why is None else f"{name} cannot be set: {why}."


def check_value(name: str, category: str, value: str) -> str | None:
    """A sentence on what is wrong with a value, or None. It never repeats the value."""
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "The value is not valid text."
    if size > LARGEST_VALUE:
        return f"The value is larger than {LARGEST_VALUE // 1024} KB."
    if "\0" in value:
        return "The value contains a NUL character."
    if category == TERRAFORM:
        return None
    if name in _CLI_ARGUMENTS:
        return _check_arguments(name, value)
    check = _CHECKS.get(name)
    return check(name, value) if check else None


def check_hideable(value: str, parts: Iterable[str] | None = None) -> str | None:
    """A sentence where a sensitive value could not be hidden in logs, or None. It never repeats the value.

    ``parts`` are the strings and numbers of an HCL value: a log can show each by itself, so each must be long enough.
    A text of several lines needs one line that is: logs are read line by line, and lines such as "}" or "fi" would make
    any script or document unfit. Shorter lines beside it stay visible. What is empty needs no hiding.
    """
    if any(_too_short(part) for part in parts or ()):
        what = f"a string or number in it has fewer than {SHORTEST_HIDDEN} characters"
        instead = "Use longer ones, or put the short ones into a variable of their own that is not sensitive."
    elif parts is None and _too_short(value):
        lines = len(value.splitlines()) > 1
        what = f"{'no line of it has' if lines else 'it has fewer than'} {SHORTEST_HIDDEN} characters"
        instead = "Use a longer one, or do not mark it as sensitive."
    else:
        return None
    return f"The value is too short to be hidden in logs: {what}. Nothing was saved. {instead}"


def _too_short(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines()]
    return any(lines) and not any(len(line) >= SHORTEST_HIDDEN for line in lines)


def _check_arguments(name: str, value: str) -> str | None:
    if all(_CLI_FLAG.fullmatch(flag) for flag in value.split()):
        return None
    return (
        f"{name} takes only -parallelism=N, -refresh=true or false, -compact-warnings"
        " and -lock-timeout=TIME (30s, 5m), separated by spaces."
    )


def _check_access_key(name: str, value: str) -> str | None:
    if value.startswith("ASIA"):
        return f"{name} is a temporary key (ASIA…). Use the long-lived key of an IAM user (AKIA…)."
    if not _KEY_ID.fullmatch(value):
        return f"{name} has only letters, digits and underscores, like AKIA… in the AWS console."
    return None


def _check_secret_key(name: str, value: str) -> str | None:
    if not value:
        return f"{name} is empty."
    if not value.isascii() or not value.isprintable() or " " in value:
        return f"{name} has only letters, digits, / and +, in one line."
    return None


def _check_serial(name: str, value: str) -> str | None:
    if ":user/" in value:
        return (
            f"{name} is the ARN of a user. Use the ARN of the user's MFA device:"
            " the same text with :mfa/ in place of :user/, as the IAM console shows it."
        )
    if not _SERIAL.fullmatch(value):
        return (
            f"{name} is like arn:aws:iam::123456789012:mfa/alice, or the number on a hardware device:"
            " 9 to 256 letters, digits and the signs + = / : , . @ - _"
        )
    return None


def _check_region(name: str, value: str) -> str | None:
    # It becomes part of the host name of STS; botocore takes any host label, but none of digits alone.
    return None if _REGION.fullmatch(value) else f"{name} is the name of an AWS region, like eu-central-1."


_CHECKS = {
    ACCESS_KEY: _check_access_key,
    SECRET_KEY: _check_secret_key,
    MFA_SERIAL: _check_serial,
    REGION: _check_region,
    DEFAULT_REGION: _check_region,
}


def normalise(name: str, value: str) -> str:
    """The value to keep: for the AWS names, without the blanks that copying brings along."""
    return value.strip() if name in _CHECKS else value


class Row(Protocol):
    """What `resolve` needs to know of a variable."""

    @property
    def scope_rank(self) -> int:
        """How far in the variable is set; of two rows the higher one wins."""
        ...

    @property
    def category(self) -> str:
        """Either "terraform" or "env"."""
        ...

    @property
    def name(self) -> str:
        """The variable's name."""
        ...


AnyRow = TypeVar("AnyRow", bound=Row)


def resolve(rows: Iterable[AnyRow]) -> dict[tuple[str, str], AnyRow]:
    """The row that wins for each (category, name): the one of the highest scope.

    The caller passes the rows of one environment and one person.
    """
    winners: dict[tuple[str, str], AnyRow] = {}
    for row in rows:
        key = (row.category, row.name)
        if key not in winners or row.scope_rank > winners[key].scope_rank:
            winners[key] = row
    return winners


def region_of(env: Mapping[str, str]) -> str | None:
    """The region a run's AWS calls go to: AWS_REGION, else AWS_DEFAULT_REGION, else None.

    The AWS provider of Terraform reads both in this order; boto3 reads only the second.
    """
    return env.get(REGION) or env.get(DEFAULT_REGION) or None
