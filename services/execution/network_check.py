"""What a run of this machine can reach and should not, really tried from inside a sandbox as a run's is."""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from config import Config
from services.execution import network, network_rules, terraform
from services.execution.sandbox import Sandbox
from services.execution.walls import scratch

PROBE = Path(__file__).resolve().with_name("network_probe.py")

#: How long a connection may take, in seconds: an address of the link answers within milliseconds.
SECONDS = 1.0

#: Where the machine's role is had (EC2 user guide, "Instance metadata service").
METADATA = (("169.254.169.254", 80), ("fd00:ec2::254", 80))
_LOOPBACK = ("127.0.0.1", "::1")


class NotTried(Exception):
    """The sandbox for it could not be started."""


@dataclass(frozen=True, slots=True)
class Reach:
    """`metadata`: the addresses that answered. `port`: whether the web server's did, None where none listens there.

    `why`: what keeps Lockstep from refusing them by itself, as a sentence; empty where it does.
    """

    metadata: tuple[str, ...]
    port: bool | None
    why: str


def look(config: Config, bwrap: str) -> Reach:
    """Try the metadata addresses and the web server's port on loopback. Raises :class:`NotTried`."""
    enclosure = network.enclosure(network_rules.rules(config))
    own = [(host, config.port) for host in _LOOPBACK]
    codes = _tried([*METADATA, *own], bwrap, enclosure.folder)
    reached = tuple(host for (host, _), code in zip(METADATA, codes, strict=False) if code == 0)
    return Reach(reached, _port(own, codes[len(METADATA) :]), enclosure.why)


def _port(own: list[tuple[str, int]], codes: list[int]) -> bool | None:
    """A firewall may answer as a port without a listener does: it counts only where one is seen from outside."""
    if 0 in codes:
        return True
    if all(code in (errno.EPERM, errno.EACCES) for code in codes) or any(_listens(*address) for address in own):
        return False
    return None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), SECONDS):
            return True
    except OSError:
        return False


def _tried(addresses: list[tuple[str, int]], bwrap: str, cgroup: Path | None) -> list[int]:
    """The errors of the connections, as `network_probe.py` numbers them."""
    words = [str(word) for address in addresses for word in address]
    program = terraform.Terraform((sys.executable, "-I", "-S", str(PROBE)), "terraform")
    with scratch() as root:
        spool = root / "spool"
        try:
            child = terraform.start(
                program,
                [str(SECONDS), *words],
                cwd=root / "config",
                env={"PATH": os.defpath},
                spool=spool,
                control=root / "control",
                step="probe",
                sandbox=Sandbox(bwrap, root, root.parent, cgroup=cgroup),
            )
            code = child.wait(20)
            if code is None:
                child.kill_session()
            codes = [int(line) for line in spool.read_text().split()]
        except (terraform.ChildError, OSError, ValueError):
            code, codes = None, []
    if code != 0 or len(codes) != len(addresses):
        raise NotTried
    return codes
