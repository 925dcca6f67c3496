"""The first program inside the sandbox: says that it is there, gives up its rights, and becomes the command.

Run as a script (`python -I -S sandbox_stage.py UID READY GATE ENVIRONMENT LIMITS FOLDER COMMAND…`), never imported.
Nothing of the configuration's is in it, so whoever started it can write its pid down before anything hostile runs: it
waits for "1" on the descriptor GATE after it has written "1" to READY. The pid stays terraform's.

UID "-" keeps the user; a number (a worker that is root) changes to it, which takes the capabilities away as well.
ENVIRONMENT is a descriptor with the command's environment, separated by NUL: so that nothing in it, such as
LD_PRELOAD, takes effect outside. LIMITS are RESOURCE=NUMBER pairs separated by commas (setrlimit(2)). FOLDER is the
working directory, which only the new user may enter.
"""

import os
import resource
import signal
import sys


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # as Python found them; it changes these
        signal.signal(number, signal.SIG_DFL)
    uid, ready, gate, environment, limits, folder = sys.argv[1:7]
    command = sys.argv[7:]
    try:
        if ready != "-":
            os.write(int(ready), b"1")
            os.close(int(ready))
            if os.read(int(gate), 1) != b"1":
                os._exit(126)
        given = _environment(int(environment))
        _limit(limits)
        if uid != "-":
            os.setgroups([])
            os.setresgid(int(uid), int(uid), int(uid))
            os.setresuid(int(uid), int(uid), int(uid))
        os.chdir(folder)
        os.closerange(3, 1024)
        os.execve(command[0], command, given)  # noqa: S606 (that is the point)
    except OSError as error:
        os.write(2, f"{command[0]} could not be started: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _environment(descriptor: int) -> dict[bytes, bytes]:
    with open(descriptor, "rb") as file:
        pairs = (entry.partition(b"=") for entry in file.read().split(b"\0") if entry)
        return {name: value for name, _, value in pairs}


def _limit(limits: str) -> None:
    for limit in limits.split(","):
        name, _, number = limit.partition("=")
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        most = int(number) if hard == resource.RLIM_INFINITY else min(int(number), hard)
        soft = resource.getrlimit(kind)[0]
        resource.setrlimit(kind, (most if soft == resource.RLIM_INFINITY else min(soft, most), most))


if __name__ == "__main__":
    _main()
