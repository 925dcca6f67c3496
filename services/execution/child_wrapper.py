"""Starts one command and stays until it ends, so that its exit code is never lost.

Run as a script (`python -I -S child_wrapper.py CONTROL STEP READY_FD KNOWN COMMAND…`), never imported: it
has to be small, start fast (even the import of json would take a third longer) and survive everything
above it. It leads a session of its own, blocks the signals meant for the application, and leaves two
files in the folder CONTROL:

- STEP.pid, before the command runs: a JSON object with what the starter says in KNOWN (step, argv, boot
  id), the pids of command and wrapper, each with its start time in clock ticks since boot (field 22 of
  /proc/PID/stat, proc(5)), and the time. The command waits for this file: nothing ever runs without a
  record, and a second start of the same step in the same folder is refused.
- STEP.exit, at the end: JSON with the exit code (negative: the number of the signal that ended it) and
  the duration in seconds. Its space is reserved at the start, so that a full disk cannot swallow it.

READY_FD receives "1" once the command is released, "0" when the step was started before. The command
gets exactly the environment the wrapper was given, the working directory, and file descriptors 0 to 2.
"""

import os
import signal
import sys
import time

RESERVED = 512
BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def _main() -> int:
    control, step, ready_fd, known = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    command = sys.argv[5:]
    # Blocked, not ignored: one that is meant for the command and comes before it runs waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    _reset_signals()
    os.umask(0o077)
    os.set_inheritable(ready_fd, False)

    read_end, write_end = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_command(command, read_end, write_end)
    os.close(read_end)
    exit_file = os.path.join(control, step + ".exit")
    part = f"{exit_file}.{os.getpid()}"
    try:
        reserved = _reserve(part)
        _write_record(os.path.join(control, step + ".pid"), _record(known, child))
    except OSError as error:
        os.close(write_end)  # The command was never released: it sees the end of the pipe and leaves.
        os.waitpid(child, 0)
        return _refuse(error, ready_fd, part)
    _answer(write_end, b"1")
    _answer(ready_fd, b"1")

    status = os.waitpid(child, 0)[1]
    code, duration = os.waitstatus_to_exitcode(status), time.monotonic() - began
    os.pwrite(reserved, b'{"exit_code": %d, "duration": %.3f}' % (code, duration), 0)
    os.fsync(reserved)
    os.rename(part, exit_file)
    _sync_folder(control)
    return 0


def _record(known: str, child: int) -> bytes:
    wrapper = os.getpid()
    return os.fsencode(known.removesuffix("}")) + (
        b', "pid": %d, "start_time": %d, "wrapper_pid": %d, "wrapper_start_time": %d, "started_at": %.3f}'
        % (child, _start_time(child), wrapper, _start_time(wrapper), time.time())
    )


def _run_command(command: list[str], read_end: int, write_end: int) -> None:
    """In the child: become the command once released, or leave when the wrapper is gone."""
    try:
        os.close(write_end)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.read(read_end, 1) != b"1":
            os._exit(126)
        os.execve(command[0], command, _given_environment())  # noqa: S606 (that is the point)
    except OSError as error:
        os.write(2, f"{command[0]} could not be started: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _reset_signals() -> None:
    """Back to the defaults: whatever started the server (nohup, a service manager) may have had some ignored.

    An ignored signal stays ignored in every program started from here (execve(2)); and with SIGCHLD ignored
    the wrapper would never learn the exit code (wait(2)).
    """
    for number in signal.valid_signals():
        try:  # noqa: SIM105 (contextlib would double the start-up)
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL, SIGSTOP and the C library's own.


def _given_environment() -> dict[bytes, bytes]:
    """The environment as it was given: the interpreter may add LC_CTYPE to os.environ (PEP 538)."""
    pairs = (entry.partition(b"=") for entry in _read("/proc/self/environ").split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def _start_time(pid: int) -> int:
    # The name in parentheses may hold spaces and parentheses itself: count from the last one.
    return int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _refuse(error: OSError, ready_fd: int, part: str) -> int:
    """Say why nothing was started: in the log, unless it is a second start, and to the starter."""
    again = isinstance(error, FileExistsError)
    if not again:
        os.write(2, f"The record of this step could not be written: {error.strerror}\n".encode())
    if os.path.exists(part):
        os.unlink(part)
    _answer(ready_fd, b"0" if again else b"!")
    return 1


def _write_record(path: str, record: bytes) -> None:
    """Write the file whole or not at all; raises FileExistsError when it is there already."""
    part = f"{path}.{os.getpid()}"
    with open(part, "wb") as file:
        file.write(record)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)
    finally:
        os.unlink(part)
    _sync_folder(os.path.dirname(path))


def _reserve(path: str) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(descriptor, b" " * RESERVED)
    os.fsync(descriptor)
    return descriptor


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(descriptor)
    os.close(descriptor)


def _answer(descriptor: int, word: bytes) -> None:
    try:  # noqa: SIM105 (contextlib would double the start-up)
        os.write(descriptor, word)
    except OSError:
        pass  # The other side is gone already: whoever started this, or a command killed at once.
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(_main())
