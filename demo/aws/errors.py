"""AWS's errors, in the shape each of its protocols gives them.

Codes, messages and status codes are those of AWS's "Common errors" pages of STS, S3, EC2 and IAM, and of
answers quoted in the trackers of boto3, aws-vault and the AWS provider.
"""

from __future__ import annotations

import json
import uuid
from xml.sax.saxutils import escape

from demo.aws.messages import Response

XML_HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACES = {
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
    "iam": "https://iam.amazonaws.com/doc/2010-05-08/",
}


class AwsError(Exception):
    """A refusal as AWS words it: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


def access_denied(message: str) -> AwsError:
    """403 AccessDenied, the code STS, IAM and S3 share."""
    return AwsError(403, "AccessDenied", message)


def validation_error(value: str, field: str, constraint: str) -> AwsError:
    """400 ValidationError in AWS's words; like AWS it repeats the value that was sent."""
    head = f"1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: "
    return AwsError(400, "ValidationError", head + constraint)


_S3 = {
    "InvalidClientTokenId": (
        403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
    ),
    "ExpiredToken": (400, "ExpiredToken", "The provided token has expired."),
    "MissingAuthenticationToken": (403, "AccessDenied", "Access Denied"),
    "SignatureDoesNotMatch": (
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and "
        "signing method.",
    ),
}  # fmt: skip
_EC2_CREDENTIALS = "AWS was not able to validate the provided access credentials"
_EC2 = {
    "InvalidClientTokenId": (401, "AuthFailure", _EC2_CREDENTIALS),
    "SignatureDoesNotMatch": (401, "AuthFailure", _EC2_CREDENTIALS),
    "MissingAuthenticationToken": (401, "AuthFailure", _EC2_CREDENTIALS),
    "ExpiredToken": (400, "RequestExpired", "Request has expired."),
    "AccessDenied": (403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
}
_SKEWED = ("Signature expired", "Signature not yet current")
_TOO_SKEWED = "The difference between the request time and the current time is too large."


def for_service(error: AwsError, service: str) -> AwsError:
    """The same refusal under the code and in the words the given service uses for it."""
    if service == "s3" and error.code == "SignatureDoesNotMatch" and error.message.startswith(_SKEWED):
        return AwsError(403, "RequestTimeTooSkewed", _TOO_SKEWED)
    table = {"s3": _S3, "ec2": _EC2}.get(service, {})
    return AwsError(*table[error.code]) if error.code in table else error


def render(error: AwsError, service: str) -> Response:
    """The answer a client of the given service parses: S3's XML, EC2's XML, the query protocol's XML, or
    JSON.
    """
    error = for_service(error, service)
    request_id = str(uuid.uuid4())
    code, message = escape(error.code), escape(error.message)
    if service == "s3":
        body = (
            f"{XML_HEADER}<Error><Code>{code}</Code><Message>{message}</Message>"
            f"<RequestId>{request_id}</RequestId><HostId>stand-in</HostId></Error>"
        )
        return Response(error.status, body.encode(), [("Content-Type", "application/xml")])
    if service == "ec2":
        body = (
            f"{XML_HEADER}<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
        return Response(error.status, body.encode(), [("Content-Type", "text/xml;charset=UTF-8")])
    if service in NAMESPACES:
        kind = "Receiver" if error.status >= 500 else "Sender"
        body = (
            f'<ErrorResponse xmlns="{NAMESPACES[service]}">\n  <Error>\n    <Type>{kind}</Type>\n'
            f"    <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n"
            f"  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n"
        )
        headers = [("Content-Type", "text/xml"), ("x-amzn-RequestId", request_id)]
        return Response(error.status, body.encode(), headers)
    name = "AccessDeniedException" if error.code == "AccessDenied" else error.code
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", name)]
    return Response(error.status, json.dumps({"__type": name, "message": error.message}).encode(), headers)
