"""A private PostgreSQL for the tests of one process: fsync off, on a unix socket, gone with the process.

Chosen by ``LOCKSTEP_TEST_DATABASE=postgresql`` (`make test-postgres`); nothing is skipped when it is missing. As root
the server runs as "nobody", because PostgreSQL refuses root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

SETTING = "LOCKSTEP_TEST_DATABASE"

_MISSING = (
    "The tests need PostgreSQL's programs (postgres and initdb) on PATH or below /usr/lib/postgresql;"
    " Debian's package is postgresql."
)
# Not synchronous_commit=off: an "immediate" stop would lose what was committed.
_FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=120")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def chosen() -> bool:
    """Whether the tests are to run on PostgreSQL. Raises :class:`pytest.UsageError` where that cannot be."""
    word = os.environ.get(SETTING) or "sqlite"
    if word not in ("sqlite", "postgresql"):
        raise pytest.UsageError(f"{SETTING} is sqlite or postgresql, not {word!r}.")
    if word == "postgresql" and programs() is None:
        raise pytest.UsageError(_MISSING)
    return word == "postgresql"


def only_sqlite(why: str) -> pytest.MarkDecorator:
    """For a test of what holds on SQLite alone."""
    return pytest.mark.skipif(os.environ.get(SETTING) == "postgresql", reason=f"SQLite only: {why}")


def programs() -> Path | None:
    """The folder of `postgres` and `initdb`, of the newest version where Debian keeps several; None without."""
    numbered = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    folders = sorted(numbered, key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        folders.insert(0, Path(on_path).parent)
    return next(
        (folder for folder in folders if all((folder / name).exists() for name in ("postgres", "initdb"))), None
    )


class Server:
    """A running server; its databases are made one by one."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process = folder, process
        self._made = 0

    def database(self) -> str:
        """The address of a new, empty database, as DATABASE_URL takes it."""
        self._made += 1
        name = f"lockstep_{self._made}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._address(name)

    def stop(self) -> None:
        """End it at once, as a crash does: what was committed is kept."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def start(self) -> None:
        """Start it again on the same folder, after :meth:`stop`."""
        self.process = _start(self.folder)

    def _address(self, name: str) -> str:
        return f"postgresql://lockstep@/{name}?host={quote(str(self.folder), safe='')}"


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A new server for the length of a `with` block."""
    found = programs()
    if found is None:
        pytest.fail(_MISSING, pytrace=False)
    # A short folder of its own: the kernel takes 107 bytes for the path of a socket.
    folder = Path(tempfile.mkdtemp(prefix="lockstep-postgres-"))
    try:
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        initdb = [str(found / "initdb"), "-D", str(folder / "data"), "-U", "lockstep", "-A", "trust", "-E", "UTF8"]
        command = [*initdb, "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(command, **_as_whom(), cwd="/", check=True, stdout=subprocess.DEVNULL)
        server = Server(folder, _start(folder))
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    found = programs()
    assert found is not None
    settings = [word for setting in _FAST for word in ("-c", setting)]
    command = [str(found / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses="]
    with (folder / "log").open("ab") as log:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [*command, *settings],
            **_as_whom(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,
        )
    deadline = time.monotonic() + 60
    while not _answers(folder):
        assert process.poll() is None, f"PostgreSQL ended at once: {(folder / 'log').read_text()[-2000:]}"
        assert time.monotonic() < deadline, "PostgreSQL does not answer"
        time.sleep(0.05)
    return process


def _answers(folder: Path) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(host=str(folder), user="lockstep", dbname="postgres").close()
        return True
    return False


def _as_whom() -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "env": {"PATH": os.defpath}}


def _end_with_parent() -> None:
    # Called after the change of user, which would clear it. SIGQUIT is the postmaster's "immediate shutdown".
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
