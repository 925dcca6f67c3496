"""What stands between a verified caller and moto: only credentials with an MFA code behind them get
through.
"""

from __future__ import annotations

import re

from demo.aws.callers import Caller
from demo.aws.chunked import unwrap
from demo.aws.errors import AwsError, access_denied
from demo.aws.messages import Request, Response
from demo.aws.moto_process import Moto
from demo.aws.sigv4 import Verified
from demo.aws.switches import Switches

SERVICES = {"s3", "ec2", "iam"}
_READ_ACTIONS = re.compile(r"(Describe|Get|List)[A-Z]")


class Forwarder:
    """Forwards S3, EC2 and IAM.

    The users of the stand-in live under a policy that denies everything without MFA, sts:GetSessionToken and
    sts:GetCallerIdentity excepted: long-lived keys and sessions without a code reach nothing here. The switch
    `long_lived_reads` relaxes that to reading.
    """

    def __init__(self, moto: Moto, switches: Switches) -> None:
        self._moto = moto
        self._switches = switches

    def perform(self, caller: Caller, service: str, request: Request, verified: Verified) -> Response:
        """The answer of moto, or AwsError."""
        action = request.form().get("Action", "") if service in ("ec2", "iam") else ""
        if service not in SERVICES or request.path.startswith("/moto-api"):
            raise access_denied(f"User: {caller.arn} is not authorized to use {service}")
        if not caller.may_use_services and not (
            self._switches.is_on("long_lived_reads") and _only_reads(service, action, request.method)
        ):
            if service == "s3":
                raise access_denied("Access Denied")
            raise access_denied(
                f"User: {caller.arn} is not authorized to perform: {service}:{action} on resource: * "
                "with an explicit deny in an identity-based policy"
            )
        plain = unwrap(request, verified)
        try:
            return self._moto.ask(plain)
        except OSError as error:
            raise AwsError(503, "ServiceUnavailable", f"The stand-in's moto server is away: {error}") from error


def _only_reads(service: str, action: str, method: str) -> bool:
    if service == "s3":
        return method in ("GET", "HEAD")
    return _READ_ACTIONS.match(action) is not None
