"""Each switch, as boto3 meets it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from demo.aws.server import Standin
from demo.aws.switches import SWITCHES, Switches
from tests.unit.demo.conftest import MovableClock, client, long_lived


def ask(standin: Standin, read_timeout: float = 15) -> Any:
    """One GetSessionToken with a fresh code."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=read_timeout)
    return client(standin, "sts", long_lived(standin), config).get_session_token(
        SerialNumber=standin.users["alice"].mfa_serial, TokenCode=standin.next_fresh_code("alice")
    )


@pytest.mark.parametrize(
    ("switch", "status", "error", "message"),
    [
        ("throttle", 400, "Throttling", "Rate exceeded"),
        ("error500", 500, "InternalFailure", "The request processing has failed"),
        ("region_disabled", 403, "RegionDisabledException", "STS is not activated in this region"),
        ("deny_session_token", 403, "AccessDenied", "is not authorized to perform: sts:GetSessionToken"),
    ],
)
def test_refusals_leave_the_code_good(standin: Standin, switch: str, status: int, error: str, message: str) -> None:
    standin.switches.set(switch, calls=1)
    code = standin.next_fresh_code("alice")
    with pytest.raises(ClientError) as caught:
        ask(standin)
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (error, status)
    assert message in answer["Error"]["Message"]
    assert standin.next_fresh_code("alice") in (code, standin.code("alice"))
    ask(standin)
    assert [call.outcome for call in standin.calls] == [error, "ok"]


@pytest.mark.parametrize(
    ("switch", "error", "outcome"),
    [
        ("drop", ConnectionClosedError, "dropped"),
        ("malformed", ResponseParserError, "ok"),
        ("garbage", ResponseParserError, "ok"),
    ],
)
def test_lost_answers_use_the_code_up(standin: Standin, switch: str, error: type[Exception], outcome: str) -> None:
    standin.switches.set(switch, calls=1)
    code = standin.next_fresh_code("alice")
    with pytest.raises(error) as caught:
        ask(standin)
    assert standin.next_fresh_code("alice") != code
    assert ("SecretAccessKey" in str(caught.value)) is (switch == "malformed")
    ask(standin)
    assert [call.outcome for call in standin.calls] == [outcome, "ok"]


def test_a_slow_answer_uses_the_code_up_even_if_nobody_waits(standin: Standin) -> None:
    standin.switches.set("slow", seconds=0.6, calls=2)
    begun = time.monotonic()
    ask(standin)
    assert time.monotonic() - begun >= 0.6
    code = standin.next_fresh_code("alice")
    with pytest.raises(ReadTimeoutError):
        ask(standin, read_timeout=0.2)
    assert standin.next_fresh_code("alice") != code


def test_a_silent_server_keeps_the_code_and_lets_go_when_cleared(standin: Standin) -> None:
    standin.switches.set("silent", calls=1)
    ended: list[BaseException] = []

    def held() -> None:
        try:
            ask(standin)
        except ConnectionClosedError as error:
            ended.append(error)

    thread = threading.Thread(target=held)
    thread.start()
    while not standin.calls:
        time.sleep(0.01)
    ask(standin)  # The next call is answered while the first is held.
    assert thread.is_alive()
    standin.switches.clear("silent")
    thread.join(10)
    assert len(ended) == 1
    assert [call.outcome for call in standin.calls] == ["silent", "ok"]


def test_a_stop_releases_silent_calls(standin: Standin) -> None:
    standin.switches.set("silent")
    with pytest.raises(ReadTimeoutError):
        ask(standin, read_timeout=0.2)
    # The fixture's end must not wait for the held call.


def test_a_switch_can_be_for_one_action(standin: Standin) -> None:
    standin.switches.set("throttle", action="GetSessionToken")
    sts = client(standin, "sts", long_lived(standin))
    sts.get_caller_identity()
    for _ in range(2):
        with pytest.raises(ClientError):
            sts.get_session_token()
    standin.switches.clear()
    sts.get_session_token()


def test_a_session_can_be_capped(standin: Standin, clock: MovableClock) -> None:
    standin.switches.set("session_cap", seconds=5)
    left = ask(standin)["Credentials"]["Expiration"].timestamp() - clock()
    assert left <= 5


@pytest.mark.parametrize(
    "wanted",
    [
        {"unknown": True},
        {"slow": True},
        {"throttle": 3},
        {"throttle": {"calls": 0}},
        {"clock_offset": {"seconds": 5, "calls": 1}},
        {"throttle": {"times": 1}},
        {"throttle": "yes"},
    ],
)
def test_faulty_settings_are_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"switch|seconds|limited"):
        Switches().apply(wanted)


def test_json_settings() -> None:
    switches = Switches()
    switches.apply({"throttle": {"calls": 2}, "slow": 3, "drop": True, "clock_offset": -60})
    assert set(switches.as_dict()) == {"throttle", "slow", "drop", "clock_offset"} <= set(SWITCHES)
    assert switches.seconds("clock_offset") == -60
    switches.apply({"drop": False})
    assert "drop" not in switches.as_dict()
    switches.apply({"all": False})
    assert switches.as_dict() == {}
