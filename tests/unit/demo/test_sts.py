"""GetSessionToken, AssumeRole and GetCallerIdentity through boto3: what AWS grants and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from demo.aws.identities import STATE_FILE
from demo.aws.server import Standin, running
from tests.unit.demo.conftest import MovableClock, authenticate, client, long_lived, temporary

ROLE = "arn:aws:iam::123456789012:role/lockstep-deploy"


def refused(call: Any, **arguments: Any) -> tuple[str, str, int]:
    """Code, message and HTTP status of the error a call must end with."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_code_buys_a_session_of_the_asked_length(standin: Standin, clock: MovableClock) -> None:
    sts = client(standin, "sts", long_lived(standin))
    alice = standin.users["alice"]
    answer = sts.get_session_token(
        SerialNumber=alice.mfa_serial, TokenCode=standin.next_fresh_code("alice"), DurationSeconds=900
    )
    credentials = answer["Credentials"]
    assert credentials["AccessKeyId"].startswith("ASIA") and len(credentials["AccessKeyId"]) == 20
    assert 880 < credentials["Expiration"].timestamp() - clock() <= 900
    identity = client(standin, "sts", temporary(credentials)).get_caller_identity()
    assert identity["Arn"] == "arn:aws:iam::123456789012:user/alice"
    assert identity["Account"] == "123456789012" and identity["UserId"] == alice.user_id
    assert [(call.action, call.outcome, call.status) for call in standin.calls] == [
        ("GetSessionToken", "ok", 200),
        ("GetCallerIdentity", "ok", 200),
    ]


def test_a_code_works_once_and_the_window_holds_three(standin: Standin, clock: MovableClock) -> None:
    call = client(standin, "sts", long_lived(standin)).get_session_token
    serial = standin.users["alice"].mfa_serial
    for _ in range(3):
        code = standin.next_fresh_code("alice")
        call(SerialNumber=serial, TokenCode=code)
        answer = refused(call, SerialNumber=serial, TokenCode=code)
        assert answer == (
            "AccessDenied",
            "MultiFactorAuthentication failed with invalid MFA one time pass code. ",
            403,
        )
    assert len([call for call in standin.calls if call.outcome == "ok"]) == 3
    clock.ahead += 60
    call(SerialNumber=serial, TokenCode=standin.code("alice"))


def test_used_codes_and_sessions_outlive_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        code = first.next_fresh_code("alice")
        serial = first.users["alice"].mfa_serial
        sts = client(first, "sts", long_lived(first))
        keys = temporary(sts.get_session_token(SerialNumber=serial, TokenCode=code)["Credentials"])
        users = first.users
    assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600
    with running(tmp_path) as second:
        assert second.users == users
        client(second, "sts", keys).get_caller_identity()
        call = client(second, "sts", long_lived(second)).get_session_token
        assert refused(call, SerialNumber=serial, TokenCode=code)[0] == "AccessDenied"


@pytest.mark.parametrize(
    ("serial", "code", "error", "part"),
    [
        ("arn:aws:iam::123456789012:mfa/alice", "wrong", "AccessDenied", "invalid MFA one time pass code. "),
        (
            "arn:aws:iam::123456789012:mfa/bob",
            "fresh",
            "AccessDenied",
            "unable to validate MFA code.  Please",
        ),
        (
            "arn:aws:iam::123456789012:user/alice",
            "fresh",
            "AccessDenied",
            "Please verify your MFA serial number",
        ),
        ("GAHT12345678", "fresh", "AccessDenied", "unable to validate MFA code.  Please verify"),
        (
            "arn:aws:iam::123456789012:mfa/alice",
            "1234567",
            "ValidationError",
            "at 'tokenCode' failed to satisfy",
        ),
        (
            "arn:aws:iam::123456789012:mfa/alice",
            "abcdef",
            "ValidationError",
            "at 'tokenCode' failed to satisfy",
        ),
        ("arn:aws:iam::123456789012:mfa/alice", "１２３４５６", "ValidationError", "at 'tokenCode'"),
        ("not a device!", "fresh", "ValidationError", "at 'serialNumber' failed to satisfy constraint"),
        (None, "fresh", "AccessDenied", "must provide both MFA serial number and one time pass code."),
        ("arn:aws:iam::123456789012:mfa/alice", None, "AccessDenied", "must provide both MFA serial number"),
    ],
)
def test_wrong_codes_and_devices(standin: Standin, serial: str | None, code: str | None, error: str, part: str) -> None:
    typed = {"wrong": standin.wrong_code("alice"), "fresh": standin.next_fresh_code("alice")}.get(str(code), code)
    given = {"SerialNumber": serial, "TokenCode": typed}
    call = client(standin, "sts", long_lived(standin)).get_session_token
    answer = refused(call, **{key: value for key, value in given.items() if value is not None})
    assert answer[0] == error and part in answer[1]
    assert answer[2] == (400 if error == "ValidationError" else 403)
    # None of them used the code up.
    call(SerialNumber=standin.users["alice"].mfa_serial, TokenCode=standin.next_fresh_code("alice"))
    assert standin.next_fresh_code("alice") != standin.code("alice")


@pytest.mark.parametrize(("seconds", "bound"), [(899, "greater than or equal to 900"), (129601, "129600")])
def test_session_lengths_have_bounds(standin: Standin, seconds: int, bound: str) -> None:
    unchecked = Config(parameter_validation=False, retries={"total_max_attempts": 1})
    call = client(standin, "sts", long_lived(standin), unchecked).get_session_token
    answer = refused(call, DurationSeconds=seconds)
    assert answer[0] == "ValidationError" and "'durationSeconds'" in answer[1] and bound in answer[1]


def test_temporary_keys_cannot_ask_for_a_session(standin: Standin) -> None:
    call = client(standin, "sts", authenticate(standin)).get_session_token
    assert refused(call) == ("AccessDenied", "Cannot call GetSessionToken with session credentials", 403)


@pytest.mark.parametrize(
    ("change", "error", "part"),
    [
        ({"aws_access_key_id": "AKIAUNKNOWNUNKNOWN22"}, "InvalidClientTokenId", "security token included"),
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch", "The request signature we calculated"),
        ({"aws_session_token": "made up"}, "InvalidClientTokenId", "security token included"),
    ],
)
def test_wrong_keys(standin: Standin, change: dict[str, str], error: str, part: str) -> None:
    answer = refused(client(standin, "sts", {**long_lived(standin), **change}).get_session_token)
    assert answer[0] == error and part in answer[1] and answer[2] == 403


@pytest.mark.parametrize(("seconds", "part"), [(-1000, "Signature not yet current: "), (1000, "Signature expired: ")])
def test_a_clock_more_than_15_minutes_off(standin: Standin, seconds: int, part: str) -> None:
    standin.switches.set("clock_offset", seconds=seconds)
    answer = refused(client(standin, "sts", long_lived(standin)).get_session_token)
    assert answer[0] == "SignatureDoesNotMatch" and answer[1].startswith(part) and "15 min.)" in answer[1]
    standin.switches.set("clock_offset", seconds=seconds * 0.8)
    authenticate(standin)


def test_temporary_keys_need_their_token(standin: Standin) -> None:
    keys = authenticate(standin)
    del keys["aws_session_token"]
    assert refused(client(standin, "sts", keys).get_caller_identity)[0] == "InvalidClientTokenId"


def test_a_session_ends(standin: Standin, clock: MovableClock) -> None:
    standin.switches.set("session_cap", seconds=60, calls=1)
    keys = authenticate(standin)
    client(standin, "sts", keys).get_caller_identity()
    clock.ahead += 61
    answer = refused(client(standin, "sts", keys).get_caller_identity)
    assert answer == ("ExpiredToken", "The security token included in the request is expired", 403)


def test_all_sessions_can_be_ended_at_once(standin: Standin) -> None:
    alice, bob = authenticate(standin), authenticate(standin, "bob")
    assert standin.expire_sessions("bob") == 1
    client(standin, "sts", alice).get_caller_identity()
    assert refused(client(standin, "sts", bob).get_caller_identity)[0] == "ExpiredToken"
    assert standin.expire_sessions() == 1
    assert refused(client(standin, "sts", alice).get_caller_identity)[0] == "ExpiredToken"


def test_the_role_trusts_a_session_with_a_code(standin: Standin) -> None:
    sts = client(standin, "sts", authenticate(standin))
    answer = sts.assume_role(RoleArn=ROLE, RoleSessionName="run-1")
    arn = "arn:aws:sts::123456789012:assumed-role/lockstep-deploy/run-1"
    assert answer["AssumedRoleUser"]["Arn"] == arn
    role = client(standin, "sts", temporary(answer["Credentials"]))
    assert role.get_caller_identity()["Arn"] == arn
    # A role's session carries no MFA context of its own: it cannot assume the role again.
    assert refused(role.assume_role, RoleArn=ROLE, RoleSessionName="again")[0] == "AccessDenied"


def test_the_role_trusts_nothing_less(standin: Standin) -> None:
    own = client(standin, "sts", long_lived(standin))
    without_code = client(standin, "sts", temporary(own.get_session_token()["Credentials"]))
    for sts in (own, without_code):
        answer = refused(sts.assume_role, RoleArn=ROLE, RoleSessionName="run-1")
        assert answer == (
            "AccessDenied",
            "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: sts:AssumeRole "
            f"on resource: {ROLE}",
            403,
        )
    with_code = client(standin, "sts", authenticate(standin))
    other = ROLE.replace("lockstep", "other")
    assert "not authorized" in refused(with_code.assume_role, RoleArn=other, RoleSessionName="run-1")[1]


def test_a_code_given_to_assume_role_counts_and_is_used_up(standin: Standin) -> None:
    sts = client(standin, "sts", long_lived(standin))
    given = {
        "RoleArn": ROLE,
        "RoleSessionName": "run-1",
        "SerialNumber": standin.users["alice"].mfa_serial,
        "TokenCode": standin.next_fresh_code("alice"),
    }
    sts.assume_role(**given, DurationSeconds=43200)
    assert "one time pass code" in refused(sts.assume_role, **given)[1]


def test_a_chained_role_lasts_an_hour_at_most(standin: Standin) -> None:
    sts = client(standin, "sts", authenticate(standin))
    answer = refused(sts.assume_role, RoleArn=ROLE, RoleSessionName="run-1", DurationSeconds=3601)
    assert answer[0] == "ValidationError" and "role chaining" in answer[1]
    sts.assume_role(RoleArn=ROLE, RoleSessionName="run-1", DurationSeconds=3600)


def test_other_actions_are_denied(standin: Standin) -> None:
    sts = client(standin, "sts", long_lived(standin))
    assert refused(sts.get_federation_token, Name="someone")[0] == "AccessDenied"
