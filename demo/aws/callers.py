"""Who signed a request: a user with long-lived keys, a user's session, or a session of an assumed role."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from demo.aws import sigv4
from demo.aws.clock import Clock
from demo.aws.errors import AwsError
from demo.aws.identities import ACCOUNT, Session, Store, User
from demo.aws.messages import Request


@dataclass(frozen=True)
class Caller:
    """A verified caller; `session` is None for long-lived keys."""

    user: User
    session: Session | None
    role_id: str = ""

    @property
    def arn(self) -> str:
        """The ARN GetCallerIdentity tells."""
        if self.session is None or not self.session.role:
            return self.user.arn
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{self.session.role}/{self.session.session_name}"

    @property
    def user_id(self) -> str:
        """The unique id GetCallerIdentity tells."""
        if self.session is None or not self.session.role:
            return self.user.user_id
        return f"{self.role_id}:{self.session.session_name}"

    @property
    def principal_arns(self) -> tuple[str, ...]:
        """The ARNs a trust policy may name this caller by."""
        if self.session is not None and self.session.role:
            return (self.arn, f"arn:aws:iam::{ACCOUNT}:role/{self.session.role}")
        return (self.arn,)

    @property
    def mfa_present(self) -> bool | None:
        """`aws:MultiFactorAuthPresent` of the request: absent for long-lived keys and for roles."""
        if self.session is None or self.session.role:
            return None
        return self.session.mfa

    @property
    def may_use_services(self) -> bool:
        """Whether an MFA code stands behind these credentials, directly or through the role's session."""
        return self.session is not None and self.session.mfa


def identify(
    store: Store, clock: Clock, request: Request, authorization: sigv4.Authorization
) -> tuple[Caller, sigv4.Verified]:
    """The caller, after date, key, token, signature and expiry were checked. Raises AwsError."""
    now = clock.server()
    timestamp = sigv4.check_date(request, authorization, now)
    token = request.header("x-amz-security-token")
    session = store.sessions.get(authorization.access_key_id)
    user = store.users[session.user] if session else store.user_of_key(authorization.access_key_id)
    expected = session.token if session else ""
    if user is None or not hmac.compare_digest(expected.encode(), (token or "").encode()):
        raise AwsError(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
    secret = session.secret_access_key if session else user.secret_access_key
    verified = sigv4.check_signature(request, authorization, timestamp, secret)
    if session is not None and session.expires_at <= now:
        raise AwsError(403, "ExpiredToken", "The security token included in the request is expired")
    role_id = store.roles[session.role].role_id if session and session.role else ""
    return Caller(user, session, role_id), verified
