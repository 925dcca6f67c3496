"""S3's `aws-chunked` bodies (x-amz-content-sha256: STREAMING-…): verified, and unwrapped to the plain object.

The format is that of AWS's "Signature calculations for the Authorization header: transferring a payload in
multiple chunks" and "… including trailing headers".
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from demo.aws.errors import AwsError
from demo.aws.messages import Request
from demo.aws.sigv4 import UNSIGNED, Verified

_EMPTY = sha256(b"").hexdigest()


def unwrap(request: Request, verified: Verified) -> Request:
    """The request with a plain body, its trailers as headers; unchanged when it is not chunked. Raises
    AwsError.
    """
    kind = request.header("x-amz-content-sha256") or ""
    if not kind.startswith("STREAMING-"):
        return request
    if kind not in (
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    ):
        raise AwsError(400, "InvalidArgument", "x-amz-content-sha256 must be a known streaming value.")
    body, trailers = _read(request.body, verified, signed="HMAC" in kind)
    if request.header("x-amz-decoded-content-length") != str(len(body)):
        raise AwsError(400, "IncompleteBody", "The request body terminated unexpectedly")
    dropped = {"x-amz-content-sha256", "x-amz-decoded-content-length", "x-amz-trailer", "content-encoding"}
    headers = [(key, value) for key, value in request.headers if key.lower() not in dropped]
    encodings = [part.strip() for part in (request.header("content-encoding") or "").split(",")]
    if kept := [part for part in encodings if part not in ("", "aws-chunked")]:
        headers.append(("Content-Encoding", ",".join(kept)))
    headers += [("x-amz-content-sha256", UNSIGNED), *trailers]
    return Request(request.method, request.target, headers, body)


def _read(raw: bytes, verified: Verified, *, signed: bool) -> tuple[bytes, list[tuple[str, str]]]:
    previous, body, position = verified.signature, b"", 0
    try:
        while True:
            end = raw.index(b"\r\n", position)
            size_text, _, extension = raw[position:end].decode("ascii").partition(";")
            size = int(size_text, 16)
            data = raw[end + 2 : end + 2 + size]
            if len(data) != size:
                raise ValueError
            if signed:
                previous = _next_signature(verified, previous, data, extension.removeprefix("chunk-signature="))
            position = end + 2 + size
            if size == 0:
                return body, _trailers(raw[position:], verified, previous, signed=signed)
            if raw[position : position + 2] != b"\r\n":
                raise ValueError
            body, position = body + data, position + 2
    except ValueError:
        raise AwsError(400, "IncompleteBody", "The request body terminated unexpectedly") from None


def _next_signature(verified: Verified, previous: str, data: bytes, given: str) -> str:
    head = f"AWS4-HMAC-SHA256-PAYLOAD\n{verified.timestamp}\n{verified.scope}\n{previous}\n{_EMPTY}\n"
    return _same(verified.sign(head + sha256(data).hexdigest()), given)


def _trailers(raw: bytes, verified: Verified, previous: str, *, signed: bool) -> list[tuple[str, str]]:
    pairs = [line.partition(":") for line in raw.decode("ascii").split("\r\n") if line]
    trailers = [(key.strip().lower(), value.strip()) for key, _, value in pairs]
    values = [(key, value) for key, value in trailers if key != "x-amz-trailer-signature"]
    if any(not key.startswith("x-amz-checksum-") for key, _ in values):
        raise ValueError
    if signed and values:
        digest = sha256("".join(f"{key}:{value}\n" for key, value in sorted(values)).encode()).hexdigest()
        head = f"AWS4-HMAC-SHA256-TRAILER\n{verified.timestamp}\n{verified.scope}\n{previous}\n"
        _same(verified.sign(head + digest), dict(trailers).get("x-amz-trailer-signature", ""))
    return values


def _same(expected: str, given: str) -> str:
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise AwsError(403, "SignatureDoesNotMatch", "")
    return expected
