"""The examination behind `flask doctor`: what an installation needs, and what to do about what is missing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from redis import Redis
from redis.exceptions import RedisError
from rq import Worker
from rq.worker import BaseWorker
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from config import Config
from extensions import db
from models import Variable
from services import clock, queue, sts_reach
from services.execution import leftovers, network_check, terraform
from services.execution.walls import find_walls
from services.storage import object_store
from services.storage.vault import VaultError

#: Codes are good for 30 s; AWS refuses signatures that are 5 minutes off (AWS IAM, "Signature Version 4").
SKEW_WARNING, SKEW_PROBLEM = timedelta(seconds=30), timedelta(minutes=5)
#: Free disk space, in bytes: providers are unpacked for each run and weigh hundreds of megabytes.
SPACE_WARNING, SPACE_PROBLEM = 5 << 30, 512 << 20
_SECRETS = ("secret_key", "encryption_keys", "setup_token", "lockstep.db")
#: Folders of the data folder that hold what runs leave, where they are there.
_FOLDERS = ("work", "redis", "logs")


class Status(StrEnum):
    """How a check ended; the words that the command prints."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. ``advice`` says what to do and is empty when nothing is."""

    subject: str
    status: Status
    detail: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Every check, in the order to mend what is wrong, which is a finding and never raised.

    Needs an application context.
    """
    config: Config = current_app.config["LOCKSTEP"]
    yield from _files(config.home)
    yield _space(config.home)
    yield from _database()
    yield from _keys(config)
    yield from _stored(config)
    yield from _bucket(config)
    yield from _redis(queue.connection())
    yield from _working_directories()
    yield _terraform(config.terraform_bin)
    yield _sandbox(config.terraform_sandbox)
    yield from _network(config)
    yield from _sts(config)


def _files(home: Path) -> Iterator[Finding]:
    wrong = []
    folders = ((home / name, 0o700) for name in _FOLDERS)
    for path, allowed in [(home, 0o700), *folders, *((home / name, 0o600) for name in _SECRETS)]:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        if mode & ~allowed:
            wrong.append(f"chmod {allowed:o} {path}")
    if wrong:
        detail = f"{home} or a secret in it can be read by others"
        yield Finding("File modes", Status.PROBLEM, detail, f"Run: {'; '.join(wrong)}")
    elif not os.access(home, os.W_OK):
        yield Finding("File modes", Status.PROBLEM, f"{home} cannot be written", "Start as the folder's owner.")
    else:
        yield Finding("File modes", Status.OK, f"{home} is private")


def _space(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    status = Status.PROBLEM if free < SPACE_PROBLEM else Status.WARNING if free < SPACE_WARNING else Status.OK
    advice = "" if status is Status.OK else f"Make room on the disk of {home}: a run unpacks providers there."
    return Finding("Disk space", status, f"{free / (1 << 30):.1f} GiB free", advice)


def _database() -> Iterator[Finding]:
    try:
        with db.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            yield Finding("Database", Status.OK, db.engine.dialect.name)
            present = set(MigrationContext.configure(connection).get_current_heads())
    except SQLAlchemyError as error:
        # Only the kind: the driver's text can name the user and the host.
        detail = f"it does not answer ({type(error).__name__})"
        yield Finding("Database", Status.PROBLEM, detail, "Check DATABASE_URL and that the database runs.")
        return
    configuration = current_app.extensions["migrate"].migrate.get_config()
    expected = set(ScriptDirectory.from_config(configuration).get_heads())
    if present == expected:
        yield Finding("Migrations", Status.OK, "the tables are up to date")
    else:
        detail = "the tables are not those of this version" if present else "there are no tables yet"
        yield Finding("Migrations", Status.PROBLEM, detail, "Run `flask db upgrade`, or start with `make run`.")


def _keys(config: Config) -> Iterator[Finding]:
    """A database that several machines can use, with secrets or a Redis that only this one has."""
    if config.database_url.startswith("sqlite:"):
        return
    if config.private_redis:
        detail = "it is a private one of this machine"
        advice = "With several machines on this database, set REDIS_URL to one Redis for all: codes travel through it."
        yield Finding("Queue", Status.WARNING, detail, advice)
    if not config.kept_secrets:
        return
    names = " and ".join(config.kept_secrets)
    detail = f"{names} come from the data folder of this machine"
    advice = "Set them, the same on every machine of this database: others sign people out and read nothing stored."
    yield Finding("Keys", Status.WARNING, detail, advice)


def _bucket(config: Config) -> Iterator[Finding]:
    if config.blob_store is None:
        return
    address, content = f"{config.blob_store}/probe/{uuid.uuid4()}", os.urandom(16)
    try:
        object_store.put(address, content)
        same = object_store.get(address) == content
        seen = any(found.address == address for found in object_store.listing(address))
        object_store.delete(address)
        left = any(found.address == address for found in object_store.listing(address))
    except object_store.ObjectGone:
        same = seen = left = False
    except object_store.StoreAway as away:
        advice = (
            "Check BLOB_STORE, BLOB_STORE_ENDPOINT and the server's AWS credentials: it puts, gets, lists, deletes."
        )
        yield Finding("Blob store", Status.PROBLEM, f"{config.blob_store} does not work ({away.reason})", advice)
        return
    if same and seen and not left:
        yield Finding("Blob store", Status.OK, f"{config.blob_store} keeps and removes objects")
    else:
        detail = f"{config.blob_store} does not give back what was just stored, or keeps what was removed"
        advice = "Use a store that is consistent at once, as Amazon S3 is."
        yield Finding("Blob store", Status.PROBLEM, detail, advice)


def _stored(config: Config) -> Iterator[Finding]:
    """Whether the keys open what was stored last, perhaps by another machine."""
    try:
        newest = db.session.scalar(select(Variable).order_by(Variable.updated_at.desc()).limit(1))
        envelope, context = (newest.value, newest.context) if newest else (None, "")
        db.session.rollback()
    except SQLAlchemyError:  # told above
        db.session.rollback()
        return
    if envelope is None:
        return
    try:
        config.vault.decrypt(envelope, context)
    except VaultError as error:
        advice = "Every machine needs the same ENCRYPTION_KEYS; put the missing key behind the newest one."
        yield Finding("Stored values", Status.PROBLEM, str(error), advice)


def _redis(client: Redis) -> Iterator[Finding]:
    try:
        version = client.info("server")["redis_version"]
        yield Finding("Redis", Status.OK, f"version {version}")
        workers = [worker for worker in Worker.all(connection=client) if _alive(worker)]
    except RedisError as error:
        advice = "Start Lockstep with `make run`, or check REDIS_URL."
        yield Finding("Redis", Status.PROBLEM, f"it does not answer ({type(error).__name__})", advice)
        return
    if workers:
        yield Finding("Workers", Status.OK, f"{len(workers)} alive")
    else:
        advice = "Start Lockstep with `make run`, or `python worker.py`; queued runs wait until then."
        yield Finding("Workers", Status.PROBLEM, "none is alive", advice)


def _alive(worker: BaseWorker) -> bool:
    """A worker's key outlives it by minutes; one on this machine is asked for by its process id."""
    if worker.hostname == socket.gethostname() and worker.pid is not None:
        return _runs(worker.pid)
    beat = worker.last_heartbeat
    if beat is None:
        return False
    beat = beat if beat.tzinfo else beat.replace(tzinfo=UTC)
    return clock.now() - beat < timedelta(seconds=worker.worker_ttl + 60)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _working_directories() -> Iterator[Finding]:
    """States that are nowhere but in the working directory of a phase which has ended."""
    try:
        kept, unknown = leftovers.only_copies()
    except SQLAlchemyError:
        return  # the database says so itself
    except OSError as error:
        detail = f"the working directories cannot be listed ({type(error).__name__})"
        yield Finding("States", Status.PROBLEM, detail, "Give the folder work in the data folder to its owner.")
        return
    finally:
        db.session.rollback()
    for path in kept:
        advice = "Keep it; upload the state in it on the environment's States tab, then remove the folder."
        yield Finding("States", Status.WARNING, f"{path} holds one that is stored nowhere else", advice)
    for path, kind in unknown:
        advice = "Look whether a state is in it and who owns its files; nothing removes it while this is so."
        yield Finding("States", Status.WARNING, f"{path} cannot be looked at ({kind})", advice)


def _terraform(setting: str | None) -> Finding:
    try:
        found = terraform.locate(setting)
        version = terraform.version(found)
    except terraform.TerraformMissing as error:
        return Finding("Terraform", Status.PROBLEM, str(error), "Install terraform, or set TERRAFORM_BIN to its path.")
    return Finding("Terraform", Status.OK, f"{found.label} {version}")


def _sandbox(setting: str) -> Finding:
    walls = find_walls(setting)
    if walls.bwrap is not None:
        return Finding("Sandbox", Status.OK, f"terraform runs inside {walls.bwrap}")
    if walls.unknown:
        advice = "Look at the machine's memory, processes and disk, and at the bubblewrap that is installed; ask again."
        return Finding("Sandbox", Status.PROBLEM, f"nothing runs until it is known: {walls.why}", advice)
    if setting == "none":
        advice = "Leave TERRAFORM_SANDBOX out, unless everybody who can upload may read what the worker can."
    else:
        advice = "Install bubblewrap, and allow user namespaces to the worker's user (docs/SECURITY.md)."
    if walls.refused:
        return Finding("Sandbox", Status.PROBLEM, f"nothing can run: {walls.why}", advice)
    detail = f"terraform runs without one and reads what the worker can: {walls.why}"
    return Finding("Sandbox", Status.WARNING, detail, advice)


def _network(config: Config) -> Iterator[Finding]:
    """What a run reaches that is none of its business. Without a sandbox there is more to say, and it is said above."""
    subject, bwrap = "Network of runs", find_walls(config.terraform_sandbox).bwrap
    if bwrap is None:
        return
    try:
        reach = network_check.look(config, bwrap)
    except network_check.NotTried:
        advice = "Look whether a run works; the walls that it has are not known."
        yield Finding(subject, Status.WARNING, "what they reach could not be tried in a sandbox", advice)
        return
    port = f"port {config.port} of this machine"
    reached = " and ".join([*reach.metadata, *([port] if reach.port else [])])
    if reached:
        why = f"; Lockstep does not refuse it: {reach.why}" if reach.why else ""
        advice = "See Firewall in docs/SECURITY.md: IPAddressDeny= in the unit, nft, IMDSv2 with a hop limit of 1."
        yield Finding(subject, Status.WARNING, f"they reach {reached}{why}".rstrip("."), advice)
    elif reach.port is None:
        detail = f"they do not reach the metadata address; nothing listens on {port}, so that was not tried"
        yield Finding(subject, Status.WARNING, detail, "Ask again while Lockstep runs.")
    else:
        yield Finding(subject, Status.OK, f"they reach neither the metadata address nor {port}")


def _sts(config: Config, ask: Callable[[Config], datetime] | None = None) -> Iterator[Finding]:
    try:
        theirs = (ask or sts_reach.ask)(config)
    except sts_reach.Unreachable as error:
        advice = "Allow HTTPS to it, or set HTTPS_PROXY, AWS_CA_BUNDLE or AWS_ENDPOINT_URL_STS."
        yield Finding("AWS STS", Status.PROBLEM, str(error), advice)
        return
    yield Finding("AWS STS", Status.OK, f"{sts_reach.endpoint(config)} answers")
    skew = abs(clock.now() - theirs)
    status = Status.OK
    if skew > SKEW_WARNING:
        status = Status.PROBLEM if skew > SKEW_PROBLEM else Status.WARNING
    advice = "" if status is Status.OK else "Synchronise this machine's clock (NTP): AWS refuses requests that are off."
    yield Finding("Clock", status, f"{skew.total_seconds():.0f} s from AWS's", advice)
