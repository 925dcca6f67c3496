"""A stand-in per test (it starts in milliseconds), and one with moto behind it per module."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from demo.aws.server import Standin, running

ONE_ATTEMPT = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)
Keys = dict[str, str]


class MovableClock:
    """True time, moved by hand; up to 15 minutes away from the real one signatures still pass.

    It starts 10 s into a code's step, so that no step ends in the middle of a test.
    """

    def __init__(self) -> None:
        self.ahead = 10.0 - time.time() % 30

    def __call__(self) -> float:
        return time.time() + self.ahead


def long_lived(standin: Standin, user: str = "alice") -> Keys:
    """The user's own keys as boto3 takes them."""
    found = standin.users[user]
    return {
        "aws_access_key_id": found.access_key_id,
        "aws_secret_access_key": found.secret_access_key,
    }


def temporary(credentials: dict[str, Any]) -> Keys:
    """The credentials of an STS answer as boto3 takes them."""
    return {
        "aws_access_key_id": credentials["AccessKeyId"],
        "aws_secret_access_key": credentials["SecretAccessKey"],
        "aws_session_token": credentials["SessionToken"],
    }


def client(standin: Standin, service: str, keys: Keys, config: Config = ONE_ATTEMPT) -> Any:
    """A boto3 client of the stand-in, with one attempt a call."""
    connect: Any = boto3.client
    return connect(service, endpoint_url=standin.endpoint, region_name="eu-west-1", config=config, **keys)


def authenticate(standin: Standin, user: str = "alice", **more: Any) -> Keys:
    """Temporary keys minted with a fresh code."""
    answer = client(standin, "sts", long_lived(standin, user)).get_session_token(
        SerialNumber=standin.users[user].mfa_serial, TokenCode=standin.next_fresh_code(user), **more
    )
    return temporary(answer["Credentials"])


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def standin(tmp_path: Path, clock: MovableClock) -> Iterator[Standin]:
    with running(tmp_path / "aws", true_time=clock) as started:
        yield started


@pytest.fixture(scope="module")
def with_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with running(tmp_path_factory.mktemp("aws")) as started:
        yield started


@pytest.fixture(scope="module")
def mfa_keys(with_moto: Standin) -> Keys:
    return authenticate(with_moto)
