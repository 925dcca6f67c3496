"""The strict STS: GetSessionToken, AssumeRole and GetCallerIdentity as AWS answers them, word for word.

Sources: the STS API reference (limits, constraints), the IAM user guide (MFA keys in the request context,
role chaining), and messages quoted in the trackers of boto3, aws-vault and the AWS provider.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from demo.aws.callers import Caller
from demo.aws.clock import Clock
from demo.aws.errors import NAMESPACES, AwsError, access_denied, validation_error
from demo.aws.identities import ACCOUNT, Session, Store, User
from demo.aws.messages import Response
from demo.aws.switches import Setting
from demo.aws.trust import allows

VERSION = "2011-06-15"
KNOWN_ACTIONS = {
    "AssumeRole", "AssumeRoleWithSAML", "AssumeRoleWithWebIdentity", "DecodeAuthorizationMessage",
    "GetAccessKeyInfo", "GetCallerIdentity", "GetFederationToken", "GetSessionToken",
}  # fmt: skip
WRONG_CODE = "MultiFactorAuthentication failed with invalid MFA one time pass code. "
WRONG_DEVICE = (
    "MultiFactorAuthentication failed, unable to validate MFA code.  "
    "Please verify your MFA serial number is valid and associated with this user."
)
HALF_MFA = "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code."
CHAINED = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."
TOO_LONG = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."


class Sts:
    """The actions, on one store of identities."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def perform(self, caller: Caller, form: dict[str, str], held: dict[str, Setting]) -> Response:
        """Do one call of a verified caller; `held` are the switches that hold for it. Raises AwsError."""
        action = form.get("Action", "")
        cap = held["session_cap"].seconds if "session_cap" in held else None
        if action not in KNOWN_ACTIONS or form.get("Version", VERSION) != VERSION:
            raise AwsError(400, "InvalidAction", f"Could not find operation {action} for version {form.get('Version')}")
        if action == "GetCallerIdentity":
            return self._caller_identity(caller)
        if action == "GetSessionToken":
            return self._session_token(caller, form, cap, denied="deny_session_token" in held)
        if action == "AssumeRole":
            return self._assume_role(caller, form, cap)
        raise access_denied(f"User: {caller.arn} is not authorized to perform: sts:{action}")

    def _caller_identity(self, caller: Caller) -> Response:
        return _answer(
            "GetCallerIdentity",
            f"<Arn>{escape(caller.arn)}</Arn><UserId>{escape(caller.user_id)}</UserId><Account>{ACCOUNT}</Account>",
        )

    def _session_token(self, caller: Caller, form: dict[str, str], cap: float | None, *, denied: bool) -> Response:
        if caller.session is not None:
            raise access_denied("Cannot call GetSessionToken with session credentials")
        if denied:
            raise access_denied(
                f"User: {caller.arn} is not authorized to perform: sts:GetSessionToken "
                "with an explicit deny in an identity-based policy"
            )
        seconds = _duration(form, default=43200, longest=129600)
        mfa = self._check_code(caller.user, form)
        session = self._mint(caller.user, seconds, cap, mfa=mfa)
        return _answer("GetSessionToken", _credentials(session))

    def _assume_role(self, caller: Caller, form: dict[str, str], cap: float | None) -> Response:
        name = form.get("RoleSessionName", "")
        if not re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.ASCII):
            raise validation_error(
                name, "roleSessionName", r"Member must satisfy regular expression pattern: [\w+=,.@-]*"
            )
        seconds = _duration(form, default=3600, longest=43200)
        mfa = caller.mfa_present
        if caller.session is None and self._check_code(caller.user, form):
            mfa = True
        arn = form.get("RoleArn", "")
        role = self._store.role_of_arn(arn)
        if role is None or not allows(role.trust_policy, caller.principal_arns, mfa):
            raise access_denied(f"User: {caller.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}")
        if seconds > role.max_session_seconds:
            raise AwsError(400, "ValidationError", TOO_LONG)
        if caller.session is not None and seconds > 3600:
            raise AwsError(400, "ValidationError", CHAINED)
        session = self._mint(caller.user, seconds, cap, mfa=mfa is True, role=role.name, session_name=name)
        identity = (
            f"<AssumedRoleUser><AssumedRoleId>{role.role_id}:{name}</AssumedRoleId>"
            f"<Arn>arn:aws:sts::{ACCOUNT}:assumed-role/{role.name}/{name}</Arn></AssumedRoleUser>"
        )
        return _answer("AssumeRole", identity + _credentials(session) + "<PackedPolicySize>0</PackedPolicySize>")

    def _check_code(self, user: User, form: dict[str, str]) -> bool:
        """Whether a code was given and is right; burns it. Raises AwsError for one that is not."""
        serial, typed = form.get("SerialNumber"), form.get("TokenCode")
        if serial is None and typed is None:
            return False
        if serial is None or typed is None:
            raise access_denied(HALF_MFA)
        if not re.fullmatch(r"[\w+=/:,.@-]{9,256}", serial, re.ASCII):
            raise validation_error(
                serial, "serialNumber", r"Member must satisfy regular expression pattern: [\w+=/:,.@-]*"
            )
        if not re.fullmatch(r"[0-9]*", typed, re.ASCII):
            raise validation_error(typed, "tokenCode", r"Member must satisfy regular expression pattern: [\d]*")
        if len(typed) != 6:
            bound = "greater" if len(typed) < 6 else "less"
            raise validation_error(typed, "tokenCode", f"Member must have length {bound} than or equal to 6")
        if serial != user.mfa_serial:
            raise access_denied(WRONG_DEVICE)
        if not self._store.spend_code(user, typed):
            raise access_denied(WRONG_CODE)
        return True

    def _mint(
        self,
        user: User,
        seconds: int,
        cap: float | None,
        *,
        mfa: bool,
        role: str = "",
        session_name: str = "",
    ) -> Session:
        lasting = seconds if cap is None else min(seconds, cap)
        return self._store.mint(
            user=user.name,
            mfa=mfa,
            expires_at=self._clock.server() + lasting,
            role=role,
            session_name=session_name,
        )


def _duration(form: dict[str, str], *, default: int, longest: int) -> int:
    given = form.get("DurationSeconds", str(default))
    if not re.fullmatch(r"-?[0-9]{1,9}", given, re.ASCII):
        raise AwsError(400, "MalformedInput", "Invalid value for DurationSeconds")
    if int(given) < 900:
        raise validation_error(given, "durationSeconds", "Member must have value greater than or equal to 900")
    if int(given) > longest:
        raise validation_error(given, "durationSeconds", f"Member must have value less than or equal to {longest}")
    return int(given)


def _credentials(session: Session) -> str:
    expires = datetime.fromtimestamp(int(session.expires_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"<Credentials><AccessKeyId>{session.access_key_id}</AccessKeyId>"
        f"<SecretAccessKey>{session.secret_access_key}</SecretAccessKey>"
        f"<SessionToken>{session.token}</SessionToken><Expiration>{expires}</Expiration></Credentials>"
    )


def _answer(action: str, result: str) -> Response:
    request_id = str(uuid.uuid4())
    body = (
        f'<{action}Response xmlns="{NAMESPACES["sts"]}"><{action}Result>{result}</{action}Result>'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>\n"
    )
    return Response(200, body.encode(), [("Content-Type", "text/xml"), ("x-amzn-RequestId", request_id)])
