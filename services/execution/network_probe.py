"""Tries connections from inside the sandbox, for `network_check.py`; nothing is sent over one.

Run as a script (`python -I -S network_probe.py SECONDS HOST PORT [HOST PORT…]`), never imported. For each it prints a
line: the number of the error with which it ended, 0 for none, and -1 where there was no answer after SECONDS.
"""

import select
import socket
import sys
import time


def _main() -> None:
    end = time.monotonic() + float(sys.argv[1])
    hosts, ports = sys.argv[2::2], sys.argv[3::2]
    tried = [_begin(host, int(port)) for host, port in zip(hosts, ports, strict=True)]
    for begun in tried:
        print(_outcome(begun, end))  # noqa: T201 (that is the point)


def _begin(host: str, port: int) -> socket.socket | int:
    """All of them at once, so that they time out together."""
    try:
        begun = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        begun.setblocking(False)
        begun.connect((host, port))
    except BlockingIOError:
        return begun
    except OSError as error:
        return error.errno or -1
    return begun


def _outcome(begun: socket.socket | int, end: float) -> int:
    if isinstance(begun, int):
        return begun
    waiting = select.poll()
    waiting.register(begun, select.POLLOUT)
    if not waiting.poll(max(0.0, end - time.monotonic()) * 1000):
        return -1
    return begun.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


if __name__ == "__main__":
    _main()
