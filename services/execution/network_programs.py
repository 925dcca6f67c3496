"""The programs that refuse a run's connections, in the kernel's own instructions (eBPF).

The kernel runs them on its own copy of the address, before anything is sent: nobody can change it in between. One
answers 1 to let a call go on, and 0 to end it with EPERM. Instructions, their context `struct bpf_sock_addr`, and the
numbers of hooks: include/uapi/linux/bpf.h; opcodes: Documentation/bpf/standardization.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

#: The machine's role and the container's, as AWS hands them out: "Instance metadata service" of the EC2 user guide,
#: "Amazon ECS task IAM role", "EKS Pod Identity".
METADATA = (
    IPv4Address("169.254.169.254"),
    IPv4Address("169.254.170.2"),
    IPv4Address("169.254.170.23"),
    IPv6Address("fd00:ec2::254"),
    IPv6Address("fd00:ec2::23"),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is refused: `METADATA`, save the `spared` addresses with port, and TCP to `ports` of loopback addresses."""

    ports: tuple[int, ...]
    spared: tuple[tuple[IPv4Address | IPv6Address, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its `enum bpf_attach_type`, its instructions. All are of BPF_PROG_TYPE_CGROUP_SOCK_ADDR."""

    hook: int
    code: bytes


#: BPF_CGROUP_INET4_CONNECT and so on: whether it is for IPv6, and whether for connections.
_HOOKS = {10: (False, True), 11: (True, True), 14: (False, False), 15: (True, False)}

# Offsets in struct bpf_sock_addr.
_IP4, _IP6, _PORT, _TYPE = 4, (8, 12, 16, 20), 24, 32

# Opcodes: a load of 32 bits from [register + offset], 32-bit jumps and arithmetic with a constant, an end.
_LOAD, _SET, _COPY, _AND, _GO, _IF, _UNLESS, _EXIT = 0x61, 0xB4, 0xBC, 0x54, 0x05, 0x16, 0x56, 0x95
_ANSWER, _CONTEXT, _ADDRESS, _TO, _KIND, _NET, _FIRST, _SECOND, _THIRD = 0, 1, 2, 3, 4, 5, 6, 7, 8


def programs(rules: Rules) -> list[Program]:
    """Those that together hold the rules."""
    return [Program(hook, _code(rules, six=six, connects=connects)) for hook, (six, connects) in _HOOKS.items()]


class _Assembler:
    """Instructions in order; jumps name a place that comes later."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, int, str, int]] = []
        self._places: dict[str, int] = {}

    def add(self, code: int, to: int = 0, value: int = 0, *, source: int = 0, offset: int = 0, place: str = "") -> None:
        """One instruction (struct bpf_insn, linux/bpf.h); ``place`` is where it jumps to."""
        self._lines.append((code, source << 4 | to, offset, place, value))

    def here(self, place: str) -> None:
        """What comes next is at ``place``."""
        self._places[place] = len(self._lines)

    def new(self) -> str:
        """A name for a place that no other has."""
        return f"after {len(self._lines)}"

    def finish(self) -> bytes:
        """The program, with its two ends behind it: allowed where nothing jumped, and refused."""
        self.here("allow")
        self.add(_SET, _ANSWER, 1)
        self.add(_EXIT)
        self.here("refuse")
        self.add(_SET, _ANSWER, 0)
        self.add(_EXIT)
        code = b""
        for number, (opcode, registers, offset, place, value) in enumerate(self._lines):
            distance = self._places[place] - number - 1 if place else offset
            code += struct.pack("=BBhI", opcode, registers, distance, value)
        return code


def _code(rules: Rules, *, six: bool, connects: bool) -> bytes:
    """Only a connection reaches a TCP port; a datagram asks for nothing but the addresses."""
    to = _Assembler()
    to.add(_LOAD, _TO, source=_CONTEXT, offset=_PORT)
    to.add(_LOAD, _KIND, source=_CONTEXT, offset=_TYPE)
    if six:
        for register, offset in zip((_FIRST, _SECOND, _THIRD, _ADDRESS), _IP6, strict=True):
            to.add(_LOAD, register, source=_CONTEXT, offset=offset)
        _six(to, rules, connects=connects)
    else:
        to.add(_LOAD, _ADDRESS, source=_CONTEXT, offset=_IP4)
    to.here("four")
    for address, port in rules.spared:
        if address.version == 4:
            _spare(to, [(_ADDRESS, _words(address)[0])], port)
    for address in METADATA:
        if address.version == 4:
            to.add(_IF, _ADDRESS, _words(address)[0], place="refuse")
    if connects:
        to.add(_COPY, _NET, source=_ADDRESS)
        to.add(_AND, _NET, _in_memory(b"\xff\0\0\0"))
        to.add(_IF, _NET, _in_memory(b"\x7f\0\0\0"), place="loopback")
        to.add(_UNLESS, _ADDRESS, 0, place="allow")  # 0.0.0.0 leads to this machine as well
        to.here("loopback")
        to.add(_UNLESS, _KIND, socket.SOCK_STREAM, place="allow")
        for port in rules.ports:
            to.add(_IF, _TO, socket.htons(port), place="refuse")
    return to.finish()


def _six(to: _Assembler, rules: Rules, *, connects: bool) -> None:
    """Goes on to the part for IPv4 with mapped addresses (::ffff:0:0/96), and to "loopback" with ::1 and ::."""
    registers = (_FIRST, _SECOND, _THIRD, _ADDRESS)
    for address, port in rules.spared:
        if address.version == 6:
            _spare(to, zip(registers, _words(address), strict=True), port)
    for address in METADATA:
        if address.version == 6:
            other = to.new()
            for register, word in zip(registers, _words(address), strict=True):
                to.add(_UNLESS, register, word, place=other)
            to.add(_GO, place="refuse")
            to.here(other)
    to.add(_UNLESS, _FIRST, 0, place="allow")
    to.add(_UNLESS, _SECOND, 0, place="allow")
    to.add(_IF, _THIRD, _in_memory(b"\0\0\xff\xff"), place="four")
    to.add(_UNLESS, _THIRD, 0, place="allow")
    if connects:
        to.add(_IF, _ADDRESS, _in_memory(b"\0\0\0\1"), place="loopback")
        to.add(_IF, _ADDRESS, 0, place="loopback")
    to.add(_GO, place="allow")


def _spare(to: _Assembler, words: Iterable[tuple[int, int]], port: int) -> None:
    other = to.new()
    for register, word in words:
        to.add(_UNLESS, register, word, place=other)
    to.add(_IF, _TO, socket.htons(port), place="allow")
    to.here(other)


def _words(address: IPv4Address | IPv6Address) -> list[int]:
    packed = address.packed
    return [_in_memory(packed[start : start + 4]) for start in range(0, len(packed), 4)]


def _in_memory(four: bytes) -> int:
    """What a load finds: addresses lie in memory in the network's order."""
    return int.from_bytes(four, sys.byteorder)
