"""The moto server as a child process: `python -m demo.aws.moto_child`, ended by the end of its standard
input.

It prints its port in one line. Its parent holds the other end of standard input, so the child ends with the
parent however that dies. (Linux's parent-death signal would not do: it follows the parent's *thread*, and a
thread that serves one request ends early.)
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve on an ephemeral port of the loopback interface until standard input ends."""
    # A Ctrl-C in the terminal reaches the whole group; the parent ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
