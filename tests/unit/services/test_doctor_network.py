"""What `flask doctor` says about the network of runs, tried for real from inside a sandbox. No address is outside."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest
from flask import Flask

from config import Config
from services import doctor
from services.doctor import Finding, Status
from services.execution import network, network_check, network_rules, walls
from services.execution.network import Enclosure
from tests.deploy.launcher import free_port
from tests.support.enclosure import enclosed


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of something that listens on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made.getsockname()[1]


@pytest.fixture(autouse=True)
def _no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place an address that nobody answers at, so that nothing leaves this machine."""
    monkeypatch.setattr(network_check, "METADATA", (("127.0.0.1", free_port()), ("::1", free_port())))


@pytest.fixture
def _no_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "enclosure", lambda rules: Enclosure(None, "only a worker that is root may do that."))


def found(app: Flask, port: int) -> Finding:
    config: Config = dataclasses.replace(app.config["LOCKSTEP"], port=port)
    (finding,) = doctor._network(config)
    assert finding.subject == "Network of runs"
    return finding


def test_the_walls_hold(app: Flask, listener: int) -> None:
    with enclosed(network_rules.rules(dataclasses.replace(app.config["LOCKSTEP"], port=listener))):
        finding = found(app, listener)
    assert (finding.status, finding.advice) == (Status.OK, "")
    assert finding.detail == f"they reach neither the metadata address nor port {listener} of this machine"


def test_the_metadata_address_itself_is_refused(app: Flask, monkeypatch: pytest.MonkeyPatch, listener: int) -> None:
    monkeypatch.undo()
    config = dataclasses.replace(app.config["LOCKSTEP"], port=listener)
    with enclosed(network_rules.rules(config)) as folder:
        bwrap = walls.find_walls("auto").bwrap
        assert bwrap
        assert network_check._tried(list(network_check.METADATA), bwrap, folder) == [1, 1]  # EPERM


@pytest.mark.usefixtures("_no_walls")
def test_without_walls_the_port_is_reached(app: Flask, listener: int) -> None:
    finding = found(app, listener)
    assert finding.status is Status.WARNING
    reached, why = f"they reach port {listener} of this machine", "only a worker that is root may do that"
    assert finding.detail == f"{reached}; Lockstep does not refuse it: {why}"
    assert "docs/SECURITY.md" in finding.advice


@pytest.mark.usefixtures("_no_walls")
def test_without_walls_the_role_is_reached(app: Flask, monkeypatch: pytest.MonkeyPatch, listener: int) -> None:
    monkeypatch.setattr(network_check, "METADATA", (("127.0.0.1", listener), ("::1", free_port())))
    finding = found(app, free_port())
    assert finding.status is Status.WARNING
    assert finding.detail.startswith("they reach 127.0.0.1; ")
    assert "IPAddressDeny=" in finding.advice and "hop limit" in finding.advice


@pytest.mark.usefixtures("_no_walls")
def test_a_port_that_nobody_listens_on_tells_nothing(app: Flask) -> None:
    finding = found(app, free_port())
    assert (finding.status, finding.advice) == (Status.WARNING, "Ask again while Lockstep runs.")


@pytest.mark.usefixtures("_no_walls")
def test_a_firewall_that_answers_counts(app: Flask, monkeypatch: pytest.MonkeyPatch, listener: int) -> None:
    """Inside it looks like a port without a listener; outside there is one."""
    tried = network_check._tried
    monkeypatch.setattr(
        network_check, "_tried", lambda addresses, *more: tried([(host, free_port()) for host, _ in addresses], *more)
    )
    assert found(app, listener).status is Status.OK


def test_an_address_that_never_answers_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "SECONDS", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = []
        for _ in range(4):  # the kernel takes no more than that and lets others wait
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        bwrap = walls.find_walls("auto").bwrap
        assert bwrap
        assert network_check._tried([address], bwrap, None) == [-1]
        for each in waiting:
            each.close()


def test_a_sandbox_that_cannot_be_started_is_said(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "PROBE", network_check.PROBE.with_name("no_such_probe.py"))
    finding = found(app, free_port())
    assert finding.status is Status.WARNING
    assert "could not be tried" in finding.detail


def test_without_a_sandbox_there_is_nothing_to_say(app: Flask) -> None:
    config = dataclasses.replace(app.config["LOCKSTEP"], terraform_sandbox="none")
    assert list(doctor._network(config)) == []
