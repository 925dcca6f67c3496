"""Every way to one address that a process has, tried outside and inside of a cgroup; a program of its own.

`python connections.py CGROUP PORT OTHER` makes a network namespace whose loopback has the metadata addresses, listens
there on port 80 and everywhere on PORT and OTHER, and prints for each try how it ended: outside, then inside. It needs
nothing of the machine's network. Only the standard library is imported; `tests/unit/execution/test_network.py` reads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import struct
import sys

METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23")
NEIGHBOURS = ("169.254.169.253", "fd00:ec2::253")
LOOPBACK = ("127.0.0.1", "127.8.9.10", "0.0.0.0", "::1", "::")  # noqa: S104 (nothing listens by it)
WAYS = ("tcp", "fast open", "multipath", "udp", "connected udp")
FASTOPEN, MPTCP, NEWNET = 0x20000000, 262, 0x40000000


def main() -> None:
    cgroup, port, other = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if ctypes.CDLL(None, use_errno=True).unshare(NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    network()
    listening = [listener(number) for number in (80, 81, port, other)]
    outside = everything(port, other)
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
    sys.stdout.write(json.dumps([outside, everything(port, other)]))
    assert listening


def network() -> None:
    """Loopback up (netdevice(7)), with the addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four, socket.socket(socket.AF_INET6) as six:
        fcntl.ioctl(four, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, running, loopback
        for number, address in enumerate((*METADATA, *NEIGHBOURS)):
            if ":" in address:  # SIOCSIFADDR, struct in6_ifreq
                fcntl.ioctl(six, 0x8916, struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, address), 128, 1))
            else:
                packed = struct.pack("16sHH4s8x", b"lo:%d" % number, socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(four, 0x8916, packed)


def listener(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    made.listen(200)
    return made


def everything(port: int, other: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for address in (*METADATA, *NEIGHBOURS):
        for number in (80, 81):
            found |= ways(address, number)
    for address in LOOPBACK:
        for number in (port, other):
            found |= ways(address, number)
    return found


def ways(address: str, port: int) -> dict[str, str]:
    """By TCP, TCP Fast Open, Multipath TCP and UDP, an IPv4 address also as an IPv6 one."""
    found: dict[str, str] = {}
    for host in [address] if ":" in address else [address, f"::ffff:{address}"]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for way in WAYS:
            kind = socket.SOCK_DGRAM if "udp" in way else socket.SOCK_STREAM
            made = (family, kind, MPTCP if way == "multipath" else 0)
            found[f"{way} {host} {port}"] = tried(way, (host, port), made)
    return found


def tried(way: str, address: tuple[str, int], kind: tuple[int, int, int]) -> str:
    """How it ended: "open" where it was let through, and for a connection also answered; else the name of the error."""
    try:
        with socket.socket(*kind) as made:
            made.setblocking(False)
            try:
                if way in ("udp", "fast open"):
                    made.sendto(b"x", FASTOPEN if way == "fast open" else 0, address)
                else:
                    made.connect(address)
            except BlockingIOError:
                if not select.select([], [made], [], 5)[1]:
                    return "no answer"
            return errno.errorcode.get(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "open")
    except OSError as error:
        return errno.errorcode[error.errno or 0]


if __name__ == "__main__":
    main()
