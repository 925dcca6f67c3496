"""`python -m demo.aws serve --port N --state DIR [--ready-file F]` and `python -m demo.aws code USER --state
DIR`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from demo.aws.identities import STATE_FILE, Store
from demo.aws.server import ADDRESS, Standin, StateInUse, running


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0].startswith("--") and given[0] not in ("--help", "-h"):
        given.insert(0, "serve")
    parser = argparse.ArgumentParser(prog="python -m demo.aws", description="The local AWS stand-in.")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run it until Ctrl-C")
    serve.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    serve.add_argument("--state", type=Path, required=True, help="folder for users, sessions and used codes")
    serve.add_argument("--ready-file", type=Path, help="written when it listens, removed at the end")
    serve.set_defaults(run=_serve)
    code = commands.add_parser("code", help="print a code that works now")
    code.add_argument("user")
    code.add_argument("--state", type=Path, required=True)
    code.set_defaults(run=_code)
    options = parser.parse_args(given)
    return int(options.run(options))


def _serve(options: argparse.Namespace) -> int:
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    try:
        with running(options.state, port=options.port) as standin:
            standin.warm_up()
            try:
                _announce(standin, options.ready_file)
                end.wait()
            finally:
                if options.ready_file is not None:
                    options.ready_file.unlink(missing_ok=True)
    except StateInUse as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        place = f"{ADDRESS}:{options.port}"
        sys.stderr.write(f"The AWS stand-in cannot listen on {place}: {error.strerror}.\n")
        return 1
    return 0


def _announce(standin: Standin, ready_file: Path | None) -> None:
    sys.stdout.write(f"AWS stand-in at {standin.endpoint}; MFA codes at {standin.endpoint}/_standin/\n")
    sys.stdout.flush()
    if ready_file is not None:
        fresh = ready_file.with_name(ready_file.name + ".new")
        fresh.write_text(json.dumps({"endpoint": standin.endpoint, "port": standin.port, "pid": os.getpid()}))
        os.replace(fresh, ready_file)


def _code(options: argparse.Namespace) -> int:
    if not (options.state / STATE_FILE).exists():
        sys.stderr.write(f"No AWS stand-in has run on {options.state} yet.\n")
        return 1
    store = Store(options.state, time.time)
    if options.user not in store.users:
        sys.stderr.write(f"There is no user {options.user!r}; there are {', '.join(store.users)}.\n")
        return 1
    while (code := store.fresh_code(store.users[options.user])) is None:
        time.sleep(0.5)
        store.reload()
    sys.stdout.write(f"{code}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
