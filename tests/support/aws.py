"""The AWS stand-in for tests: its devices show a new code whenever one is asked for, so that no test waits for one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from demo.aws import totp
from demo.aws.control import Call
from demo.aws.identities import User
from demo.aws.server import Standin
from demo.aws.switches import Switches


class Aws:
    """One stand-in. Devices live on a clock that :meth:`code` moves on; signatures and sessions are judged by the
    true time.
    """

    def __init__(self, folder: Path) -> None:
        self._ahead = 0.0
        self._standin = Standin(folder, 0, lambda: time.time() + self._ahead)

    def reset(self) -> None:
        """Every switch as it is at the start, no recorded calls."""
        self.switches.clear()
        self._keep_server_on_time()
        self._standin.clear_calls()

    def code(self, user: str = "alice") -> str:
        """A code that AWS accepts now, not shown before."""
        # Beyond the window of three steps, so that nothing an earlier test typed is valid any more.
        self._ahead += 4 * totp.STEP_SECONDS
        self._keep_server_on_time()
        return self._standin.code(user)

    def wrong_code(self, user: str = "alice") -> str:
        """Six digits that AWS refuses."""
        return self._standin.wrong_code(user)

    @property
    def endpoint(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return self._standin.endpoint

    @property
    def switches(self) -> Switches:
        """What makes it misbehave."""
        return self._standin.switches

    @property
    def calls(self) -> list[Call]:
        """The STS calls since the test began."""
        return self._standin.calls

    def outcomes(self, action: str = "GetSessionToken") -> list[str]:
        """How the calls of one action ended, oldest first."""
        return [call.outcome for call in self.calls if call.action == action]

    def user(self, name: str = "alice") -> User:
        """An IAM user with keys and device."""
        return self._standin.users[name]

    @property
    def role_arn(self) -> str:
        """The role whose trust policy asks for MFA."""
        return next(iter(self._standin.roles.values())).arn

    def expire_sessions(self) -> None:
        """End all temporary credentials now."""
        assert self._standin.expire_sessions() > 0

    def bucket_names(self) -> list[str]:
        """The S3 buckets that exist."""
        return self._standin.bucket_names()

    def close(self) -> None:
        """End it."""
        self._standin.close()

    def _keep_server_on_time(self) -> None:
        self.switches.set("clock_offset", seconds=-self._ahead)


@contextlib.contextmanager
def aws_running(folder: Path) -> Iterator[Aws]:
    """A stand-in for the length of a `with` block."""
    aws = Aws(folder)
    try:
        yield aws
    finally:
        aws.close()
