"""Signature Version 4, verified: the signature is computed again with botocore's own signer and compared.

The rules are those of AWS's "Signature Version 4" pages; the S3 variant neither normalises nor re-encodes the
path.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from demo.aws.errors import AwsError
from demo.aws.messages import Request

SKEW_SECONDS = 15 * 60
TIMESTAMP = "%Y%m%dT%H%M%SZ"
UNSIGNED = "UNSIGNED-PAYLOAD"
_DOES_NOT_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS "
    "Secret Access Key and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True)
class Authorization:
    """The parts of an `Authorization: AWS4-HMAC-SHA256 …` header."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str


@dataclass(frozen=True)
class Verified:
    """A request whose signature was right; `sign` signs another string with the same key, for chunked
    payloads.
    """

    timestamp: str
    scope: str
    signature: str
    sign: Callable[[str], str]


def parse(request: Request) -> Authorization:
    """The request's authorization. Raises AwsError: MissingAuthenticationToken, IncompleteSignature."""
    header = request.header("authorization")
    if header is None:
        raise AwsError(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
    scheme, _, rest = header.partition(" ")
    if scheme != "AWS4-HMAC-SHA256":
        raise _incomplete(f"Unsupported AWS 'algorithm': '{scheme}'.")
    fields = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", rest))
    for name in ("Credential", "SignedHeaders", "Signature"):
        if name not in fields:
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    scope = fields["Credential"].split("/")
    if len(scope) != 5 or scope[4] != "aws4_request":
        raise _incomplete("Credential must have exactly 5 slash-delimited elements.")
    names = tuple(fields["SignedHeaders"].lower().split(";"))
    return Authorization(scope[0], scope[1], scope[2], scope[3], names, fields["Signature"])


def _incomplete(message: str) -> AwsError:
    return AwsError(400, "IncompleteSignature", message)


def _mismatch(message: str = _DOES_NOT_MATCH) -> AwsError:
    return AwsError(403, "SignatureDoesNotMatch", message)


def check_date(request: Request, authorization: Authorization, now: float) -> str:
    """The request's timestamp, at most 15 min from the server's `now` (Unix seconds). Raises AwsError."""
    stamp = request.header("x-amz-date") or ""
    try:
        moment = datetime.strptime(stamp, TIMESTAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        ) from None
    if stamp[:8] != authorization.date:
        raise _mismatch("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
    server = _stamp(now)
    if moment < now - SKEW_SECONDS:
        limit = _stamp(now - SKEW_SECONDS)
        raise _mismatch(f"Signature expired: {stamp} is now earlier than {limit} ({server} - 15 min.)")
    if moment > now + SKEW_SECONDS:
        limit = _stamp(now + SKEW_SECONDS)
        raise _mismatch(f"Signature not yet current: {stamp} is still later than {limit} ({server} + 15 min.)")
    return stamp


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime(TIMESTAMP)


def check_signature(request: Request, authorization: Authorization, timestamp: str, secret: str) -> Verified:
    """Recompute the signature with the secret key, and the body's hash. Raises AwsError:
    SignatureDoesNotMatch.
    """
    must_sign = {"host"} | {key.lower() for key, _ in request.headers if key.lower().startswith("x-amz-")}
    declared = request.header("x-amz-content-sha256")
    if must_sign - set(authorization.signed_headers):
        raise _mismatch()
    if declared is not None and declared != UNSIGNED and not declared.startswith("STREAMING-"):
        _compare(declared, sha256(request.body).hexdigest())
    if declared is not None and not re.fullmatch(r"[0-9a-f]{64}", declared) and authorization.service != "s3":
        raise _mismatch()
    signer = _signer(authorization, secret)
    aws_request = AWSRequest(
        method=request.method,
        url=f"http://{request.header('host')}{request.target}",
        data=request.body,
    )
    aws_request.headers = _signed_headers(request, authorization.signed_headers)
    aws_request.context["timestamp"] = timestamp
    canonical = signer.canonical_request(aws_request)
    expected = signer.signature(signer.string_to_sign(aws_request, canonical), aws_request)
    _compare(expected, authorization.signature)

    def sign(text: str) -> str:
        return str(signer.signature(text, aws_request))

    return Verified(timestamp, signer.credential_scope(aws_request), expected, sign)


def _compare(expected: str, given: str) -> None:
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise _mismatch()


def _signed_headers(request: Request, names: Sequence[str]) -> HTTPHeaders:
    headers = HTTPHeaders()
    for key, value in request.headers:
        if key.lower() in names:
            headers.add_header(key.lower(), value)
    return headers


def _signer(authorization: Authorization, secret: str) -> Any:
    """A signer of botocore, told to take exactly the headers that the client says it signed.

    On its own it leaves some out (user-agent, expect …) that another SDK may sign.
    """
    base = S3SigV4Auth if authorization.service == "s3" else SigV4Auth

    class Signer(base):  # type: ignore[misc, valid-type]
        def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
            headers = HTTPHeaders()
            for key, value in request.headers.items():
                headers.add_header(key.lower(), value)
            return headers

    return Signer(Credentials(authorization.access_key_id, secret), authorization.service, authorization.region)
