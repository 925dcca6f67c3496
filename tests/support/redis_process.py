"""A real Redis for the tests of one process, on a unix socket."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from deploy import redis_server


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Its URL. The folder is a short one of its own: the kernel takes 107 bytes for the path of a socket."""
    home = Path(tempfile.mkdtemp(prefix="lockstep-redis-"))
    process = subprocess.Popen(redis_server.command(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not redis_server.answers(home):
            assert process.poll() is None, "Redis ended at once"
            assert time.monotonic() < deadline, "Redis does not answer"
            time.sleep(0.02)
        yield f"unix://{redis_server.socket_path(home)}"
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(home)
