"""The filter of system calls for the sandbox: no new user namespaces, no mounting, no kernel keyrings, no kernel code.

A user namespace of its own would give a process every capability inside of it, and with them the parts of the kernel
that only administrators reach otherwise. Keyrings are not divided by namespaces: the worker's would be readable.
Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; the program: seccomp(2).
"""

from __future__ import annotations

import errno
import platform
import struct

_EVERYWHERE = {"io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431}
_EVERYWHERE |= {"fsmount": 432, "fspick": 433, "mount_setattr": 442}
_X86_64 = {"clone": 56, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161}
_X86_64 |= {"keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298}
_X86_64 |= {"userfaultfd": 323, "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246}
_X86_64 |= {"open_by_handle_at": 304, "acct": 163, "quotactl": 179, "swapon": 167, "reboot": 169}
_AARCH64 = {"clone": 220, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51}
_AARCH64 |= {"keyctl": 219, "add_key": 217, "request_key": 218, "bpf": 280, "perf_event_open": 241}
_AARCH64 |= {"userfaultfd": 282, "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104}
_AARCH64 |= {"open_by_handle_at": 265, "acct": 89, "quotactl": 60, "swapon": 224, "reboot": 142}

#: By `uname -m`: AUDIT_ARCH of linux/audit.h, and the calls.
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

_CLONE3, _CLONE_NEWUSER, _X32 = 435, 0x10000000, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16


def program(machine: str | None = None) -> bytes | None:
    """The filter as an array of `struct sock_filter`; None for a machine whose numbers are not known here."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    arch, calls = known
    denied = _statement(_RETURN, _REFUSE | errno.EPERM)
    lines = [_statement(_LOAD, _ARCH), _statement(_EQUAL, arch, 1, 0), denied]  # 32-bit programs
    lines += [_statement(_LOAD, _NUMBER), _statement(_AT_LEAST, _X32, 0, 1), denied]
    # Its flags are behind a pointer: the C library and Go go on with clone.
    lines += [_statement(_EQUAL, _CLONE3, 0, 1), _statement(_RETURN, _REFUSE | errno.ENOSYS)]
    for name, number in (calls | _EVERYWHERE).items():
        if name not in ("clone", "unshare"):
            lines += [_statement(_EQUAL, number, 0, 1), denied]
    lines += [_statement(_EQUAL, calls["clone"], 1, 0), _statement(_EQUAL, calls["unshare"], 0, 3)]
    lines += [_statement(_LOAD, _FIRST_ARGUMENT), _statement(_ANY_BIT, _CLONE_NEWUSER, 0, 1), denied]
    return b"".join([*lines, _statement(_RETURN, _ALLOW)])


def _statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
