"""A provisioner that wants to reach Lockstep itself, and the machine's role. Without the walls it could."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from policy.lifecycle import RunStatus
from services.execution import network, network_rules
from services.execution.network import Enclosure
from tests.support import lab, printed
from tests.support.enclosure import enclosed
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

Ports = tuple[int, int]

TRY = (
    "import errno, socket, sys; s = socket.socket(); s.settimeout(3); "
    "found = s.connect_ex((sys.argv[1], int(sys.argv[2]))); "
    "print(*sys.argv[1:], errno.errorcode.get(found, 'connected'))"
)
SAID = re.compile(r"(?P<host>\S+) (?P<port>\d+) (?P<ending>connected|E[A-Z]+)")


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Of two listeners on loopback: the web server's, and another."""
    with ExitStack() as stack:
        listening = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        yield listening[0].getsockname()[1], listening[1].getsockname()[1]


def reached(bench: Bench, monkeypatch: pytest.MonkeyPatch, ports: Ports, *more: str) -> dict[str, str]:
    """How tries from an apply's provisioner end, by address."""
    bench.settings(monkeypatch, port=ports[0])
    addresses = [f"127.0.0.1 {port}" for port in ports] + list(more)
    lines = json.dumps("\n".join(f'/usr/bin/python3 -c "{TRY}" {address}' for address in addresses))
    run = bench.confirmed(
        f'resource "terraform_data" "it" {{\n  provisioner "local-exec" {{ command = {lines} }}\n}}\n'
    )
    assert bench.work(run.apply) is RunStatus.APPLIED, lab.log_of(run.apply)
    found = printed.lines(lab.log_of(run.apply), SAID)
    return {f"{match['host']} {match['port']}": match["ending"] for _, match in found}


def test_a_run_reaches_neither_lockstep_nor_the_machines_role(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ports: Ports
) -> None:
    bench.settings(monkeypatch, port=ports[0])
    metadata = ("169.254.169.254 80", "169.254.170.2 80", "169.254.170.23 80")
    with enclosed(network_rules.rules(bench.app.config["LOCKSTEP"])):
        found = reached(bench, monkeypatch, ports, *metadata)
    assert found == {
        f"127.0.0.1 {ports[0]}": "EPERM",
        f"127.0.0.1 {ports[1]}": "connected",
        **dict.fromkeys(metadata, "EPERM"),
    }


def test_without_the_walls_it_reaches_lockstep(bench: Bench, monkeypatch: pytest.MonkeyPatch, ports: Ports) -> None:
    """That a metadata address could be reached as well is shown by tests/unit/execution/test_network.py."""
    monkeypatch.setattr(network, "enclosure", lambda rules: Enclosure(None, "It is switched off for this test."))
    assert set(reached(bench, monkeypatch, ports).values()) == {"connected"}
