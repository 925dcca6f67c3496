"""The stand-in's people, role and sessions, kept in one file of the state folder with mode 0600."""

from __future__ import annotations

import json
import os
import secrets
import string
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from demo.aws import totp
from demo.aws.trust import seed_trust_policy

ACCOUNT = "123456789012"
USERS = ("alice", "bob")
ROLE_NAME = "lockstep-deploy"
STATE_FILE = "aws.json"
SESSIONS_KEPT = 500
_ID_LETTERS = string.ascii_uppercase + "234567"
_SECRET_LETTERS = string.ascii_letters + string.digits + "/+"


def _identifier(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_ID_LETTERS) for _ in range(20 - len(prefix)))


def _secret(length: int = 40) -> str:
    return "".join(secrets.choice(_SECRET_LETTERS) for _ in range(length))


@dataclass(frozen=True)
class User:
    """An IAM user with one pair of long-lived keys and one virtual MFA device."""

    name: str
    user_id: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    mfa_serial: str = ""
    mfa_secret: str = field(default="", repr=False)

    @property
    def arn(self) -> str:
        """The user's ARN, which is not the device's."""
        return f"arn:aws:iam::{ACCOUNT}:user/{self.name}"


@dataclass(frozen=True)
class Role:
    """An IAM role: who may assume it, and for how many seconds at most."""

    name: str
    role_id: str
    trust_policy: dict[str, Any]
    max_session_seconds: int = 12 * 3600

    @property
    def arn(self) -> str:
        """The role's ARN."""
        return f"arn:aws:iam::{ACCOUNT}:role/{self.name}"


@dataclass(frozen=True)
class Session:
    """Temporary credentials: of a user (`role` empty) or of an assumed role.

    `mfa` says whether a code stood behind them: given to GetSessionToken, or to the session the role was
    assumed from.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str = field(repr=False)
    user: str = ""
    mfa: bool = False
    expires_at: float = 0.0
    role: str = ""
    session_name: str = ""


class Store:
    """Identities, sessions and used codes of one state folder; every change is on disk before it is answered.

    `true_time` gives Unix seconds; devices are always on it.
    """

    def __init__(self, folder: Path, true_time: Callable[[], float]) -> None:
        self._path = folder / STATE_FILE
        self._true_time = true_time
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._path.exists():
            self._write(_first_state())
        self._read()

    def reload(self) -> None:
        """Read the file again; for readers beside the running stand-in."""
        with self._lock:
            self._read()

    def _read(self) -> None:
        data = json.loads(self._path.read_text())
        self.users = {name: User(**value) for name, value in data["users"].items()}
        self.roles = {name: Role(**value) for name, value in data["roles"].items()}
        self.sessions = {value["access_key_id"]: Session(**value) for value in data["sessions"]}
        self._used = {serial: set(steps) for serial, steps in data["used_steps"].items()}

    def _save(self) -> None:
        self._write(
            {
                "users": {name: asdict(user) for name, user in self.users.items()},
                "roles": {name: asdict(role) for name, role in self.roles.items()},
                "sessions": [asdict(session) for session in self.sessions.values()],
                "used_steps": {serial: sorted(steps) for serial, steps in self._used.items()},
            }
        )

    def _write(self, data: dict[str, Any]) -> None:
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(data, file, indent=1)
        os.replace(fresh, self._path)

    def user_of_key(self, access_key_id: str) -> User | None:
        """The user of a long-lived key."""
        return next((user for user in self.users.values() if user.access_key_id == access_key_id), None)

    def role_of_arn(self, arn: str) -> Role | None:
        """The role of an ARN."""
        return next((role for role in self.roles.values() if role.arn == arn), None)

    def spend_code(self, user: User, typed: str) -> bool:
        """Accept a code and burn it; False when it is wrong, out of the window or used before."""
        with self._lock:
            now = self._true_time()
            used = self._used.setdefault(user.mfa_serial, set())
            for step in totp.matching_steps(user.mfa_secret, typed, now):
                if step not in used:
                    used.add(step)
                    self._used[user.mfa_serial] = {kept for kept in used if kept >= totp.step_at(now) - 10}
                    self._save()
                    return True
            return False

    def fresh_code(self, user: User) -> str | None:
        """A code that would be accepted now: the present, the next or the previous one; None when all are
        used.

        The previous one is only offered while its step has 5 s left, so that it is still good when it
        arrives.
        """
        with self._lock:
            now = self._true_time()
            used = self._used.get(user.mfa_serial, set())
            left = totp.STEP_SECONDS - now % totp.STEP_SECONDS
            for offset in totp.WINDOW:
                if totp.step_at(now) + offset not in used and (offset >= 0 or left >= 5):
                    return totp.code(user.mfa_secret, totp.step_at(now) + offset)
            return None

    def mint(self, *, user: str, mfa: bool, expires_at: float, role: str = "", session_name: str = "") -> Session:
        """New temporary credentials, good until `expires_at` (Unix seconds of the server's clock)."""
        session = Session(
            _identifier("ASIA"), _secret(), _secret(356), user, mfa, expires_at, role, session_name
        )  # fmt: skip
        with self._lock:
            # Ended sessions stay known, so that they are refused as expired and not as unknown.
            kept = list(self.sessions.items())[-(SESSIONS_KEPT - 1) :]
            self.sessions = {**dict(kept), session.access_key_id: session}
            self._save()
        return session

    def expire_sessions(self, user: str | None = None) -> int:
        """End all temporary credentials now, or one user's; returns how many there were."""
        with self._lock:
            ended = 0
            for key, session in list(self.sessions.items()):
                if user in (None, session.user) and session.expires_at > 1:
                    # One second after the epoch: in the past for every clock offset, and still a known
                    # session.
                    self.sessions[key] = Session(**{**asdict(session), "expires_at": 1.0})
                    ended += 1
            self._save()
            return ended


def _first_state() -> dict[str, Any]:
    users = {
        name: User(
            name,
            _identifier("AIDA"),
            _identifier("AKIA"),
            _secret(),
            f"arn:aws:iam::{ACCOUNT}:mfa/{name}",
            totp.new_secret(),
        )
        for name in USERS
    }
    role = Role(ROLE_NAME, _identifier("AROA"), seed_trust_policy([user.arn for user in users.values()]))
    return {
        "users": {name: asdict(user) for name, user in users.items()},
        "roles": {role.name: asdict(role)},
        "sessions": [],
        "used_steps": {},
    }
