"""Starts one command and stays until it ends, so that its exit code is never lost.

Run as a script (`python -I -S child_wrapper.py CONTROL STEP READY_FD TOLD_FD FDS WALLS…`), never imported: it
has to be small, start fast (even the import of json would take a third longer) and survive everything
above it. It leads a session of its own, blocks the signals meant for the application, and leaves two
files in the folder CONTROL:

- STEP.pid, before the command runs: a JSON object with what the starter knows (step, argv, boot
  id), the pids of command and wrapper, each with its start time in clock ticks since boot (field 22 of
  /proc/PID/stat, proc(5)), and the time. The command waits for this file: nothing ever runs without a
  record, and a second start of the same step in the same folder is refused.
- STEP.exit, at the end: JSON with the exit code (negative: the number of the signal that ended it) and
  the duration in seconds. Its space is reserved at the start, so that a full disk cannot swallow it.

On TOLD_FD the starter says "1" when this process is in the cgroup that it belongs to, which may then make everything
ready; and, now or later, what it knows and the words of the command, each after a NUL, a line feed and the end. Without
all of that, as when the starter was killed, nothing is started and nothing is left.

READY_FD receives "1" once the command is released, "0" when the step was started before. The command
gets exactly the environment the wrapper was given, the working directory, and file descriptors 0 to 2.

FDS is "-", or for a command inside a sandbox the descriptors that are its alone, with commas. WALLS then is the
sandbox's command line (`sandbox.py`): bwrap, and three words to replace by descriptors. @info is told bwrap's child,
the first process of the sandbox, on @ready the first program inside says that it is there, and on @gate it waits for
the words of the command that it becomes. So the record names the command's own pid, as it is outside, and "init_pid",
whose end is the end of everything inside: it is killed when the command has ended, and the exit code is written down
after that.
"""

import os
import select
import signal
import sys
import time

RESERVED = 512
BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def _main() -> int:
    control, step, ready_fd, told_fd = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    descriptors = [] if sys.argv[5] == "-" else [int(number) for number in sys.argv[5].split(",")]
    # Blocked, not ignored: one that is meant for the command and comes before it runs waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    _reset_signals()
    os.umask(0o077)
    os.set_inheritable(ready_fd, False)
    os.set_inheritable(told_fd, False)
    admitted = os.read(told_fd, 1)
    if admitted != b"1":
        if admitted:  # other words; none means that whoever started this is gone, or needs it no more
            os.write(2, b"The command could not be put into its cgroup.\n")
        _answer(ready_fd, b"!")
        return 1

    if descriptors:
        child, write_end, inside, init = _fork_sandbox(sys.argv[6:], descriptors)
    else:
        child, write_end = _fork()
        inside, init = child, 0
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a command that is gone before it is released
    held = os.pidfd_open(init) if init else -1
    exit_file = os.path.join(control, step + ".exit")
    part = f"{exit_file}.{os.getpid()}"
    try:
        reserved = _reserve(part)
        known, _, command = _told(told_fd).partition(b"\0")
        if not command:
            return _leave(write_end, child, part)
        began = time.monotonic()
        _write_record(os.path.join(control, step + ".pid"), _record(known, inside, init))
    except OSError as error:
        os.close(write_end)  # The command was never released: it sees the end of the pipe and leaves.
        os.waitpid(child, 0)
        return _refuse(error, ready_fd, part)
    _answer(write_end, command + b"\n")
    _answer(ready_fd, b"1")

    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    duration = time.monotonic() - began
    if descriptors:
        _end_sandbox(held)
        code = 128 - code if code > 128 else code  # as bwrap tells of a signal
    os.pwrite(reserved, b'{"exit_code": %d, "duration": %.3f}' % (code, duration), 0)
    os.fsync(reserved)
    os.rename(part, exit_file)
    _sync_folder(control)
    return 0


def _told(descriptor: int) -> bytes:
    """What was written, without the line feed at its end; nothing where that is missing."""
    with open(descriptor, "rb") as file:
        line = file.read()
    return line[:-1] if line.endswith(b"\n") else b""


def _leave(write_end: int, child: int, part: str) -> int:
    os.close(write_end)  # the command was never released: it sees the end of the pipe and leaves
    os.waitpid(child, 0)
    os.unlink(part)
    return 1


def _record(known: bytes, child: int, init: int) -> bytes:
    wrapper = os.getpid()
    inside = b', "init_pid": %d, "init_start_time": %d' % (init, _start_time(init)) if init else b""
    return known.removesuffix(b"}") + (
        b', "pid": %d, "start_time": %d, "wrapper_pid": %d, "wrapper_start_time": %d, "started_at": %.3f%b}'
        % (child, _start_time(child), wrapper, _start_time(wrapper), time.time(), inside)
    )


def _fork() -> tuple[int, int]:
    """Pid of the command to be, and where it waits for its words."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _run_command(read_end, write_end)
    os.close(read_end)
    return child, write_end


def _fork_sandbox(command: list[str], descriptors: list[int]) -> tuple[int, int, int, int]:
    """Pid of bwrap, where the command waits for its words, its own pid, and that of the sandbox's first process.

    Where bwrap could not make a sandbox, it has said why in the log: its own pid stands for the command, and 0.
    """
    info, ready, gate = os.pipe(), os.pipe(), os.pipe()
    given = {"@info": info[1], "@ready": ready[1], "@gate": gate[0]}
    child = os.fork()
    if child == 0:
        # The end where INFO is read, too. bwrap writes to it before it lets its first process go on: that would wait
        # for good, with the environment in its memory, if nobody were left to read.
        inherited = [*given.values(), info[0], *descriptors]
        _run_sandbox([str(given.get(word, word)) for word in command], inherited)
    for descriptor in (*given.values(), *descriptors):
        os.close(descriptor)
    init = inside = 0
    if os.read(ready[0], 1) == b"1":
        # bwrap writes {"child-pid": 12, …} before it lets its child begin.
        init = int(os.read(info[0], 4096).partition(b'"child-pid":')[2].partition(b",")[0].strip(b" \n}"))
        inside = _only_child(init)
    os.close(ready[0])
    os.close(info[0])
    return child, gate[1], inside or child, init


def _run_sandbox(command: list[str], descriptors: list[int]) -> None:
    try:
        os.setsid()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(command[0], command, {})  # noqa: S606 (that is the point)
    except OSError as error:
        os.write(2, f"{command[0]} could not be started: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _only_child(pid: int) -> int:
    try:
        return int(_read(f"/proc/{pid}/task/{pid}/children").split()[0])
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(_stat(int(entry))[1]) == pid:
                return int(entry)
        return 0


def _end_sandbox(held: int) -> None:
    """Whatever a provisioner left running ends with the first process, before the exit code can be read."""
    if held < 0:
        return
    try:
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except ProcessLookupError:
        return
    waiting = select.poll()
    waiting.register(held, select.POLLIN)
    waiting.poll(10_000)


def _run_command(read_end: int, write_end: int) -> None:
    """In the child: become the command once released, or leave when the wrapper is gone."""
    command = [b"terraform"]
    try:
        os.close(write_end)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        command = _told(read_end).split(b"\0")
        if not command[0]:
            os._exit(126)
        os.execve(command[0], command, _given_environment())  # noqa: S606 (that is the point)
    except OSError as error:
        os.write(2, f"{os.fsdecode(command[0])} could not be started: {error.strerror}\n".encode())
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
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[bytes]:
    # The name in parentheses may hold spaces and parentheses itself: count from the last one.
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except ProcessLookupError:
        return [b"0"] * 20


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
