"""The socket of the stand-in: a threaded HTTP server on 127.0.0.1, and the ways to run it."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demo.aws import totp
from demo.aws.clock import Clock
from demo.aws.control import Call, Calls
from demo.aws.front import Front
from demo.aws.identities import Role, Store, User
from demo.aws.messages import Request, Response, text
from demo.aws.moto_process import Moto
from demo.aws.switches import Switches

ADDRESS = "127.0.0.1"
LARGEST_BODY = 64 * 1024 * 1024
IDLE_SECONDS = 120


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the recorded calls are the log."""

    def _answer(self) -> None:
        host = self.headers.get_all("Host") or []
        if len(host) != 1 or host[0] not in self.server.own_hosts:
            # A page of another site that points its name at this machine must not read codes here.
            self.close_connection = True
            self._send(text(421, f"This is the local AWS stand-in at {ADDRESS} only.\n"))
            return
        try:
            body = self._body()
        except ValueError:
            self.close_connection = True
            self._send(text(400, "The request's body cannot be read.\n"))
            return
        # The request line as it came: the base class rewrites a leading "//".
        target = self.requestline.split(" ")[1]
        response = self.server.front.answer(Request(self.command, target, list(self.headers.items()), body))
        if response is None:
            self.close_connection = True
            return
        self._send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _answer

    def _body(self) -> bytes:
        if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
            return self._chunked_body()
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= LARGEST_BODY:
            raise ValueError
        body = self.rfile.read(length)
        if len(body) != length:
            raise ValueError
        return body

    def _chunked_body(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(100).partition(b";")[0], 16):
            if not 0 < size <= LARGEST_BODY - len(body):
                raise ValueError
            body += self.rfile.read(size)
            if self.rfile.readline(3) != b"\r\n":
                raise ValueError
        while self.rfile.readline(8192) not in (b"\r\n", b""):
            pass
        return body

    def _send(self, response: Response) -> None:
        bodiless = response.status in (204, 304)
        lines = [f"HTTP/1.1 {response.status} {self.responses.get(response.status, ('Unknown',))[0]}"]
        lines.append("Date: " + formatdate(self.server.clock.server(), usegmt=True))
        lines += [f"{key}: {value}" for key, value in response.headers]
        if not bodiless:
            lines.append(f"Content-Length: {len(response.body) if response.length is None else response.length}")
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        # One write for head and body: the second of two would wait for the other side's acknowledgement.
        self.wfile.write(head if bodiless or self.command == "HEAD" else head + response.body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A stopping server does not wait for idle keep-alive connections.
    block_on_close = False

    def __init__(self, port: int, front: Front, clock: Clock) -> None:
        self.front = front
        self.clock = clock
        super().__init__((ADDRESS, port), _Handler)
        self.own_hosts = {f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"}
        self._open: set[socket.socket] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no event here."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close the connections that are still open."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class StateInUse(Exception):
    """Another stand-in runs on this state folder."""


class Standin:
    """A stand-in that serves in threads of this process. Use it as `with running(folder) as standin`."""

    def __init__(self, folder: Path, port: int = 0, true_time: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateInUse(f"An AWS stand-in already runs on {folder}.") from None
        self.switches = Switches()
        self._clock = Clock(self.switches, true_time)
        self._store = Store(folder, true_time)
        self._calls = Calls()
        self._moto = Moto(folder / "moto.log")
        self._front = Front(self._store, self._clock, self.switches, self._calls, self._moto)
        try:
            self._server = _Server(port, self._front, self._clock)
        except OSError:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self._server.server_port)

    @property
    def endpoint(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://{ADDRESS}:{self.port}"

    @property
    def users(self) -> dict[str, User]:
        """The IAM users by name, with their long-lived keys and MFA serial."""
        return self._store.users

    @property
    def roles(self) -> dict[str, Role]:
        """The IAM roles by name."""
        return self._store.roles

    @property
    def calls(self) -> list[Call]:
        """The STS calls so far, oldest first."""
        return self._calls.all()

    @property
    def moto_pid(self) -> int | None:
        """The process id of the moto child, None before it was needed."""
        return self._moto.pid

    def clear_calls(self) -> None:
        """Forget the recorded calls."""
        self._calls.clear()

    def code(self, user: str, step: int = 0) -> str:
        """What the user's device shows now, or shows `step` steps of 30 s later; perhaps used already."""
        return totp.code(self.users[user].mfa_secret, totp.step_at(self._clock.true()) + step)

    def next_fresh_code(self, user: str) -> str:
        """A code that STS would accept now; waits for the next step when all three of the window are used."""
        while (code := self._store.fresh_code(self.users[user])) is None:
            time.sleep(0.1)
        return code

    def wrong_code(self, user: str) -> str:
        """Six digits that are none of the codes of the steps around now."""
        near = {self.code(user, step) for step in range(-3, 4)}
        return next(code for code in (f"{number:06d}" for number in range(10)) if code not in near)

    def expire_sessions(self, user: str | None = None) -> int:
        """End all temporary credentials now, or one user's."""
        return self._store.expire_sessions(user)

    def bucket_names(self) -> list[str]:
        """The S3 buckets that exist."""
        return self._moto.bucket_names()

    def warm_up(self) -> None:
        """Start moto now, in the background, instead of at the first forwarded call."""
        self._moto.start()

    def close(self) -> None:
        """End the server, its connections and moto."""
        self._front.stop()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()
        self._moto.close()
        os.close(self._lock)


@contextmanager
def running(state_dir: Path | str, *, port: int = 0, true_time: Callable[[], float] = time.time) -> Iterator[Standin]:
    """A stand-in for the length of a `with` block.

    `true_time` (Unix seconds) replaces the clock of devices and server. Raises StateInUse, and OSError when
    the port is taken.
    """
    standin = Standin(Path(state_dir), port, true_time)
    try:
        yield standin
    finally:
        standin.close()
