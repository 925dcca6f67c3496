"""The first program inside the sandbox: says that it is there, gives up its rights, and becomes the command.

Run as a script (`python -I -S sandbox_stage.py UID READY GATE ENVIRONMENT LIMITS FOLDER [COMMAND…]`), never imported.
Nothing of the configuration's is in it, so whoever started it can write its pid down before anything hostile runs: it
writes "1" to the descriptor READY and waits on GATE for the words of the command, with NULs between them, a line feed
and the end; without all of that it leaves. The pid stays terraform's. READY "-" has no gate, but the command here.

UID "-" keeps the user; a number (a worker that is root) changes to it, which takes the capabilities away as well.
ENVIRONMENT is a descriptor with the command's environment, separated by NUL: so that nothing in it, such as
LD_PRELOAD, takes effect outside. LIMITS are RESOURCE=NUMBER pairs separated by commas (setrlimit(2)). FOLDER is the
working directory, which only the new user may enter.
"""

import os
import resource
import signal
import sys
import time


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # as Python found them; it changes these
        signal.signal(number, signal.SIG_DFL)
    uid, ready, gate, environment, limits, folder = sys.argv[1:7]
    command = sys.argv[7:]
    try:
        if ready != "-":
            os.write(int(ready), b"1")
            os.close(int(ready))
            with open(int(gate), "rb") as file:
                told = file.read()
            if not told.endswith(b"\n"):
                os._exit(126)
            command = [os.fsdecode(word) for word in told[:-1].split(b"\0")]
        _share_by_priority()
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


def _share_by_priority() -> None:
    """Linux shares a processor between sessions first, and this is one of its own: the priority of a process counts
    among those of its session alone, until the session has it as well (sched(7), "The autogroup feature").
    """
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    if priority <= 0 or not os.path.exists("/proc/self/autogroup"):
        return
    for _ in range(3):
        try:
            with open("/proc/self/autogroup", "w") as file:
                file.write(f"{priority}")
            return
        except BlockingIOError:  # one change in a tenth of a second, on the whole machine
            time.sleep(0.11)
        except OSError:
            return


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
