"""S3, EC2 and IAM behind the front: open for an MFA session and its roles, closed for everything less."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from botocore.exceptions import ClientError

from demo.aws.server import Standin
from tests.unit.demo.conftest import Keys, client, long_lived, temporary
from tests.unit.demo.raw import Raw, signed

IRELAND = {"LocationConstraint": "eu-west-1"}
KEY = "a folder/ü+c~'()*=&.txt"


@pytest.fixture(scope="module")
def role_keys(with_moto: Standin, mfa_keys: Keys) -> Keys:
    answer = client(with_moto, "sts", mfa_keys).assume_role(
        RoleArn=with_moto.roles["lockstep-deploy"].arn, RoleSessionName="run-1"
    )
    return temporary(answer["Credentials"])


@pytest.fixture(params=["mfa_keys", "role_keys"])
def good_keys(request: pytest.FixtureRequest) -> Keys:
    found: Keys = request.getfixturevalue(request.param)
    return found


def error_code(call: Any, **arguments: Any) -> str:
    """The code of the error a call must end with."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def test_a_bucket_lives_and_dies(with_moto: Standin, good_keys: Keys) -> None:
    s3 = client(with_moto, "s3", good_keys)
    s3.create_bucket(Bucket="first", CreateBucketConfiguration=IRELAND)
    assert with_moto.bucket_names() == ["first"]
    s3.put_object(Bucket="first", Key=KEY, Body=b"some bytes", Metadata={"who": "alice"})
    assert s3.get_object(Bucket="first", Key=KEY)["Body"].read() == b"some bytes"
    assert s3.head_object(Bucket="first", Key=KEY)["ContentLength"] == 10
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="first")["Contents"]] == [KEY]
    s3.delete_object(Bucket="first", Key=KEY)
    s3.delete_bucket(Bucket="first")
    assert with_moto.bucket_names() == []


def test_ec2_and_iam_answer(with_moto: Standin, good_keys: Keys) -> None:
    assert client(with_moto, "ec2", good_keys).describe_vpcs()["Vpcs"]
    assert client(with_moto, "iam", good_keys).list_roles()["Roles"] == []


def test_less_than_a_code_creates_nothing(with_moto: Standin, mfa_keys: Keys) -> None:
    own = long_lived(with_moto)
    without_code = temporary(client(with_moto, "sts", own).get_session_token()["Credentials"])
    for keys in (own, without_code):
        s3 = client(with_moto, "s3", keys)
        assert error_code(s3.create_bucket, Bucket="second", CreateBucketConfiguration=IRELAND) == "AccessDenied"
        assert error_code(s3.list_buckets) == "AccessDenied"
        assert error_code(s3.head_bucket, Bucket="second") == "403"
        assert error_code(client(with_moto, "ec2", keys).describe_vpcs) == "UnauthorizedOperation"
        assert error_code(client(with_moto, "iam", keys).create_user, UserName="eve") == "AccessDenied"
    assert with_moto.bucket_names() == []


def test_long_lived_keys_may_be_allowed_to_read(with_moto: Standin) -> None:
    with_moto.switches.set("long_lived_reads")
    try:
        s3 = client(with_moto, "s3", long_lived(with_moto))
        assert s3.list_buckets()["Buckets"] == []
        assert error_code(s3.create_bucket, Bucket="second", CreateBucketConfiguration=IRELAND) == "AccessDenied"
        iam = client(with_moto, "iam", long_lived(with_moto))
        assert iam.list_users()["Users"] == []
        assert error_code(iam.create_user, UserName="eve") == "AccessDenied"
    finally:
        with_moto.switches.clear()


@pytest.mark.parametrize(
    ("change", "s3_code", "ec2_code", "iam_code"),
    [
        ({"aws_access_key_id": "ASIAUNKNOWN"}, "InvalidAccessKeyId", "AuthFailure", "InvalidClientTokenId"),
        ({"aws_secret_access_key": "x"}, "SignatureDoesNotMatch", "AuthFailure", "SignatureDoesNotMatch"),
        ({"aws_session_token": "x"}, "InvalidAccessKeyId", "AuthFailure", "InvalidClientTokenId"),
    ],
)
def test_wrong_keys_in_the_words_of_each_service(
    with_moto: Standin, mfa_keys: Keys, change: Keys, s3_code: str, ec2_code: str, iam_code: str
) -> None:
    keys = {**mfa_keys, **change}
    assert error_code(client(with_moto, "s3", keys).list_buckets) == s3_code
    assert error_code(client(with_moto, "ec2", keys).describe_vpcs) == ec2_code
    assert error_code(client(with_moto, "iam", keys).list_users) == iam_code


def test_expiry_and_skew_in_the_words_of_each_service(standin: Standin) -> None:
    keys = temporary(client(standin, "sts", long_lived(standin)).get_session_token()["Credentials"])
    standin.expire_sessions()
    assert error_code(client(standin, "s3", keys).list_buckets) == "ExpiredToken"
    assert error_code(client(standin, "ec2", keys).describe_vpcs) == "RequestExpired"
    assert error_code(client(standin, "iam", keys).list_users) == "ExpiredToken"
    standin.switches.set("clock_offset", seconds=3600)
    assert error_code(client(standin, "s3", keys).list_buckets) == "RequestTimeTooSkewed"
    assert error_code(client(standin, "iam", keys).list_users) == "SignatureDoesNotMatch"


def test_no_other_service_and_no_back_door(with_moto: Standin, mfa_keys: Keys) -> None:
    dynamodb = client(with_moto, "dynamodb", mfa_keys)
    assert error_code(dynamodb.list_tables) == "AccessDeniedException"
    assert signed(with_moto, mfa_keys, "POST", "/moto-api/reset").send(with_moto)[0] == 403
    status, answer = Raw("GET", "/", {}).send(with_moto)
    assert status == 403 and "<Code>AccessDenied</Code>" in answer


@pytest.fixture(scope="module")
def bucket(with_moto: Standin, mfa_keys: Keys) -> str:
    client(with_moto, "s3", mfa_keys).create_bucket(Bucket="bodies", CreateBucketConfiguration=IRELAND)
    return "bodies"


class TestPayloads:
    """The ways S3 clients declare and send a body."""

    def stored(self, standin: Standin, keys: Keys) -> dict[str, Any]:
        answer: dict[str, Any] = client(standin, "s3", keys).get_object(Bucket="bodies", Key="x")
        return {"body": answer["Body"].read(), "encoding": answer.get("ContentEncoding")}

    def test_unsigned(self, with_moto: Standin, mfa_keys: Keys, bucket: str) -> None:
        raw = signed(
            with_moto,
            mfa_keys,
            "PUT",
            f"/{bucket}/x",
            body=b"signed or not",
            headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD", "Expect": "100-continue"},
        )
        raw.body = b"something else"
        assert raw.send(with_moto)[0] == 200
        assert self.stored(with_moto, mfa_keys)["body"] == b"something else"

    def test_unsigned_chunks_with_a_trailer(self, with_moto: Standin, mfa_keys: Keys, bucket: str) -> None:
        headers = {
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "x-amz-decoded-content-length": "11",
            "x-amz-trailer": "x-amz-checksum-crc32",
            "content-encoding": "aws-chunked",
        }
        raw = signed(with_moto, mfa_keys, "PUT", f"/{bucket}/x", headers=headers)
        raw.body = b"6\r\nhello \r\n5\r\nworld\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n"
        assert raw.send(with_moto)[0] == 200
        assert self.stored(with_moto, mfa_keys) == {"body": b"hello world", "encoding": None}
        raw.body = b"6\r\nhello \r\n0\r\n\r\n"
        assert "IncompleteBody" in raw.send(with_moto)[1]

    @pytest.mark.parametrize("trailer", [False, True])
    def test_signed_chunks(self, with_moto: Standin, mfa_keys: Keys, bucket: str, trailer: bool) -> None:
        kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
        headers = {"x-amz-content-sha256": kind, "x-amz-decoded-content-length": "11"}
        headers["content-encoding"] = "gzip,aws-chunked"
        raw = signed(with_moto, mfa_keys, "PUT", f"/{bucket}/x", headers=headers)
        raw.body = chunked_and_signed(raw, [b"hello ", b"world", b""], trailer=trailer)
        good = raw.body
        raw.body = good.replace(b"world", b"World")
        assert "SignatureDoesNotMatch" in raw.send(with_moto)[1]
        if trailer:
            raw.body = good.replace(b"DUoRhQ==", b"AAAAAA==")
            assert "SignatureDoesNotMatch" in raw.send(with_moto)[1]
        raw.body = good
        assert raw.send(with_moto)[0] == 200
        assert self.stored(with_moto, mfa_keys) == {"body": b"hello world", "encoding": "gzip"}


def chunked_and_signed(raw: Raw, chunks: list[bytes], *, trailer: bool) -> bytes:
    """A body as AWS's "transferring a payload in multiple chunks" describes it, each chunk signed."""
    stamp, scope = raw.signed.context["timestamp"], raw.signer.credential_scope(raw.signed)
    previous = raw.headers["Authorization"].rpartition("Signature=")[2]
    empty = sha256(b"").hexdigest()
    body = b""
    for chunk in chunks:
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{previous}\n{empty}\n{sha256(chunk).hexdigest()}"
        previous = raw.signer.signature(text, raw.signed)
        body += f"{len(chunk):x};chunk-signature={previous}\r\n".encode() + chunk
        body += b"\r\n" if chunk or not trailer else b""
    if trailer:
        line = "x-amz-checksum-crc32:DUoRhQ=="
        digest = sha256(f"{line}\n".encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256-TRAILER\n{stamp}\n{scope}\n{previous}\n{digest}"
        signature = raw.signer.signature(text, raw.signed)
        body += f"{line}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()
    return body
