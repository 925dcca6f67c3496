"""Requests signed by hand with botocore, to be bent before they are sent."""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from typing import Any

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from demo.aws.server import Standin
from tests.unit.demo.conftest import Keys


@dataclass
class Raw:
    """One request; `headers` hold the signature."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    signer: Any = field(default=None, repr=False)
    signed: Any = field(default=None, repr=False)

    def send(self, standin: Standin, *, chunks: list[bytes] | None = None) -> tuple[int, str]:
        """Status and body of the answer; with `chunks` the body goes out with Transfer-Encoding: chunked."""
        connection = http.client.HTTPConnection("127.0.0.1", standin.port, timeout=15)
        try:
            body: Any = iter(chunks) if chunks else self.body
            connection.request(self.method, self.path, body, self.headers, encode_chunked=bool(chunks))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def signed(
    standin: Standin,
    keys: Keys,
    method: str,
    path: str,
    *,
    service: str = "s3",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Raw:
    """A signed request. A given x-amz-content-sha256 is signed as it is."""
    credentials = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.get("aws_session_token"))
    given = dict(headers or {})
    declared = given.get("x-amz-content-sha256")
    base: Any = S3SigV4Auth if service == "s3" else SigV4Auth

    class Signer(base):
        def payload(self, request: Any) -> Any:
            return declared or super().payload(request)

    host = f"127.0.0.1:{standin.port}"
    request = AWSRequest(method=method, url=f"http://{host}{path}", data=body, headers={"Host": host, **given})
    signer = Signer(credentials, service, "eu-west-1")
    signer.add_auth(request)
    return Raw(method, path, dict(request.headers.items()), body, signer, request)
