"""Steps of the tests of gate and worker, each through the services as the pages call them."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from redis import Redis
from sqlalchemy import select, text

from extensions import db
from models import ConfigurationVersion, Environment, LogChunk, MfaAttempt, Phase, Run
from policy.lifecycle import RunStatus
from services import configurations, queue, run_pages, runs
from services.execution import host
from services.mfa import gate
from services.storage import logs
from services.storage.sqlite import read_only
from tests import factories
from tests.support.aws import Aws

REGION = "eu-west-1"


def aws_keys(aws: Aws, person: str = "alice", *, user: str | None = None, without: str = "", **more: str) -> None:
    """The AWS variables of a person, of their own in the organization; ``user`` is whose keys and device."""
    iam = aws.user(user or person)
    values = {
        "AWS_ACCESS_KEY_ID": iam.access_key_id,
        "AWS_SECRET_ACCESS_KEY": iam.secret_access_key,
        "AWS_MFA_SERIAL_NUMBER": iam.mfa_serial,
        "AWS_REGION": REGION,
    }
    for name, value in (values | more).items():
        if name != without or name in more:
            factories.variable(name, value, owner=person)


def archive(files: dict[str, str]) -> io.BytesIO:
    """A .tar.gz of text files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    stream.seek(0)
    return stream


def upload(of: Environment, files: dict[str, str] | str, by: str = "alice") -> ConfigurationVersion:
    """A configuration of these files, or of one main.tf."""
    files = {"main.tf": files} if isinstance(files, str) else files
    return configurations.upload(factories.member(by), of, archive(files), "configuration.tar.gz")


def new_run(of: Environment, version: ConfigurationVersion | None = None, by: str = "alice", message: str = "") -> Run:
    """A run queued by a person; without ``version`` its configuration is never read."""
    return runs.create_run(factories.member(by), of, version or factories.configuration(of), message)


def authenticate(run: Run, code: str, by: str = "alice") -> None:
    """Type a code."""
    gate.authenticate(factories.member(by), run, code)


def attempts(phase: Phase) -> list[MfaAttempt]:
    """The attempts at the gate of a phase, oldest first."""
    return run_pages.attempts(phase.run)[phase.kind]


def status(run: Run) -> RunStatus:
    """The run's status, read anew."""
    db.session.refresh(run)
    return run.status


def tones_of(phase: Phase) -> set[str | None]:
    """The tones of the lines in a phase's log; "ok" and "bad" are the padlocks of MFA."""
    return set(db.session.scalars(select(LogChunk.tone).where(LogChunk.phase_id == phase.id)))


def log_of(phase: Phase) -> str:
    """The whole log, without colours."""
    raw = b"".join(logs.raw(phase.id)).decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;]*m", "", raw)


def queued_jobs() -> list[tuple[str | None, list[Any]]]:
    """What lies in the queues, this machine's own first: the function's name and its arguments."""
    queues = (queue.queue(host=host.identity()), queue.queue())
    return [(job.func_name, list(job.args)) for found in queues for job in found.get_jobs()]


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Wait until ``condition`` answers something true, and return it. Each look is a reading transaction of its own, so
    that looking keeps nobody from writing.
    """
    deadline = time.monotonic() + seconds
    db.session.rollback()
    while True:
        reading = read_only.set(True)
        try:
            answer = condition()
        finally:
            db.session.rollback()
            read_only.reset(reading)
        if answer:
            return answer
        assert time.monotonic() < deadline, f"It did not happen in {seconds} s: {what}"
        time.sleep(0.03)


class Beside:
    """A call in a thread with an application context of its own; :meth:`result` waits and re-raises."""

    def __init__(self, app: Flask, call: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._answer: Any = None
        self._thread = threading.Thread(target=self._run, args=(app, call), daemon=True)
        self._thread.start()

    def _run(self, app: Flask, call: Callable[[], Any]) -> None:
        with app.app_context():
            try:
                self._answer = call()
            except BaseException as error:  # handed to the test by result()
                self.error = error
            finally:
                db.session.remove()

    def result(self, seconds: float = 180) -> Any:
        """The call's answer, or its exception."""
        db.session.rollback()  # a transaction that stays open here would keep the other thread from writing
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "The thread does not end."
        if self.error is not None:
            raise self.error
        return self._answer


def stored(app: Flask, redis: Redis) -> bytes:
    """All that is kept: every column of every table, the database's files, every key and value of Redis."""
    parts: list[bytes] = []
    for table in db.metadata.sorted_tables:
        for row in db.session.execute(text(f'SELECT * FROM "{table.name}"')):  # noqa: S608 (a name of our own)
            parts += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    db.session.rollback()
    home: Path = app.config["LOCKSTEP"].home
    # By another process: a process that closes a database file drops all locks that SQLite holds on it for that process
    # (SQLite, "How To Corrupt An SQLite Database File", 2.2), and another one would then take the file for its own.
    files = [str(path) for path in home.rglob("*") if path.is_file()]
    parts.append(subprocess.run(["cat", *files], check=True, capture_output=True).stdout)
    parts += [repr((key, _value(redis, key))).encode() for key in redis.scan_iter("*")]
    return b"\n".join(parts)


def _value(redis: Redis, key: Any) -> Any:
    kind = redis.type(key)
    if kind == b"string":
        return redis.get(key)
    if kind == b"hash":
        return redis.hgetall(key)
    if kind == b"list":
        return redis.lrange(key, 0, -1)
    if kind == b"set":
        return redis.smembers(key)
    return redis.zrange(key, 0, -1, withscores=True)


def holds_code(kept: bytes, code: str) -> bool:
    """Whether six digits stand there as a word (the microseconds of a time stamp are none)."""
    return re.search(rb"(?<![0-9A-Za-z.])%s(?![0-9A-Za-z])" % code.encode(), kept) is not None
