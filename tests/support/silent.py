"""Something that terraform reads and that does not answer until it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reads(address: str) -> str:
    """A data source whose reading lasts until the server at ``address`` answers."""
    return f'data "terraform_remote_state" "slow" {{\n  backend = "http"\n  config = {{ address = "{address}" }}\n}}\n'


@contextmanager
def slow_remote_state() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """The address of a state that is only answered once the second event is set; the first: it was asked for."""
    asked, answer = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            asked.set()
            answer.wait(60)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked, answer
    finally:
        answer.set()
        server.shutdown()
        server.server_close()
        thread.join()
