"""What the settings make of the walls in a run's network."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

import config
from services.execution import network_rules
from services.execution.network_programs import Rules


def rules(home: Path, **settings: str) -> Rules:
    return network_rules.rules(config.load({"LOCKSTEP_HOME": str(home), **settings}))


def test_the_web_servers_port_is_always_refused(tmp_path: Path) -> None:
    assert rules(tmp_path) == Rules((8000,))
    assert rules(tmp_path, PORT="8123") == Rules((8123,))


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("redis://:secret@localhost", {6379}),
        ("redis://:secret@127.0.0.1:6380/0", {6380}),
        ("rediss://:secret@[::1]:6381", {6381}),
        ("redis://:secret@", {6379}),
        ("redis://:secret@cache.example.org:6379", set()),
        ("redis://:secret@10.0.0.1", set()),
        ("unix:///run/redis.sock", set()),
    ],
)
def test_redis_on_this_machine(tmp_path: Path, url: str, ports: set[int]) -> None:
    assert set(rules(tmp_path, REDIS_URL=url).ports) == {8000, *ports}


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("postgresql://user:password@localhost/name", {5432}),
        ("postgresql://user@127.0.0.2:5433/name", {5433}),
        ("postgresql://user@[::1]/name", {5432}),
        ("postgresql:///name", set()),
        ("postgresql:///name?host=/run/postgresql", set()),
        ("postgresql://user@/name?host=localhost&port=5434", {5434}),
        ("postgresql://user@/name?hostaddr=127.0.0.1", {5432}),
        ("postgresql://user@/name?host=db.example.org:5435&host=localhost:5436", {5436}),
        ("postgresql://user@db.example.org/name", set()),
    ],
)
def test_a_database_on_this_machine(tmp_path: Path, url: str, ports: set[int]) -> None:
    assert set(rules(tmp_path, DATABASE_URL=url).ports) == {8000, *ports}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566", Rules((8000,))),
        ("AWS_ENDPOINT_URL", "http://localhost:8000", Rules(())),
        ("HTTPS_PROXY", "127.0.0.1:8000", Rules(())),
        ("ALL_PROXY", "socks5://[::1]:8000", Rules(())),
        ("NO_PROXY", "127.0.0.1:8000", Rules((8000,))),
        ("AWS_ENDPOINT_URL_S3", "http://169.254.169.254", Rules((8000,), ((ip_address("169.254.169.254"), 80),))),
        ("HTTP_PROXY", "https://[fd00:ec2::254]", Rules((8000,), ((ip_address("fd00:ec2::254"), 443),))),
        ("AWS_ENDPOINT_URL", "https://sts.example.org", Rules((8000,))),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:no-port", Rules((8000,))),
    ],
)
def test_where_the_operator_leads_terraform_it_may_go(tmp_path: Path, name: str, value: str, found: Rules) -> None:
    assert rules(tmp_path, **{name: value}) == found
