"""The whole of Lockstep as `make run` starts it, in a folder of its own, with people and environments in it."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import config
from app import create_app
from bench.person import Person
from extensions import db
from models import Environment
from policy.mfa import MfaLevel
from policy.permissions import Role
from services import queue
from tests import factories
from tests.deploy.launcher import Launched, launched
from tests.support import lab

#: Seconds between two looks into the database; one takes well below a millisecond.
LOOK = 0.005

_WAITING = ("awaiting_confirmation", "awaiting_plan_authentication", "awaiting_apply_authentication")
_ENDED = ("applied", "planned_and_finished", "errored", "canceled", "discarded", "interrupted")


class Stack:
    """A running Lockstep."""

    def __init__(self, launcher: Launched, folder: Path) -> None:
        self.launcher, self.folder = launcher, folder
        self.home, self.port = launcher.home, launcher.port
        self._database = sqlite3.connect(f"file:{self.home}/lockstep.db?mode=ro", uri=True, isolation_level=None)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Its database, from this process."""
        app = create_app(config.load({"LOCKSTEP_HOME": str(self.home)}))
        with app.app_context():
            try:
                yield
            finally:
                queue.connection().close()
                db.session.remove()
                db.engine.dispose()

    def person(self, name: str = "alice") -> Person:
        """Somebody who is signed in."""
        return Person(self.port, name)

    def value(self, query: str, *values: object) -> object:
        """The first column of the first row, None for no row. One read that keeps nobody waiting."""
        row = self._database.execute(query, values).fetchone()
        return row[0] if row else None

    def number(self, query: str, *values: object) -> float:
        """As :meth:`value`, of a number that has to be there."""
        found = self.value(query, *values)
        assert isinstance(found, int | float), (query, found)
        return found

    def run_id(self, place: str) -> int:
        """The id of the run at an address of the web server."""
        environment, number = place.split("/environments/")[1].split("/")[0], int(place.rpartition("/")[2])
        query = "SELECT run.id FROM run JOIN environment e ON e.id = run.environment_id WHERE e.name = ? AND number = ?"
        return int(self.number(query, environment, number))

    def wait(self, run_id: int, *wanted: str, seconds: float = 300) -> float:
        """Wait until the run has one of these statuses; answers the monotonic time at which it was seen."""
        found = ""

        def there() -> bool:
            nonlocal found
            found = str(self.value("SELECT status FROM run WHERE id = ?", run_id))
            return found in wanted or found in _ENDED

        until(there, seconds)
        assert found in wanted, (found, self.value("SELECT error FROM run WHERE id = ?", run_id))
        return time.monotonic()

    def wait_person(self, run_id: int) -> float:
        """Wait until the run waits for somebody."""
        return self.wait(run_id, *_WAITING)


def until(condition: Callable[[], object], seconds: float, pause: float = LOOK) -> None:
    """Wait for it; fails after so many seconds.

    The longer it takes the seldomer it is looked, to a thousandth of the time: looking takes from what is waited for.
    """
    begun = time.monotonic()
    while not condition():
        waited = time.monotonic() - begun
        assert waited < seconds, f"It did not happen in {seconds} s."
        time.sleep(max(pause, waited / 1000))


@contextmanager
def running(**settings: str) -> Iterator[Stack]:
    """Lockstep with alice, who owns the organization acme, and more people. It is ended at the end with all of it."""
    # Redis listens on a unix socket in the data folder, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="lb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with launched(folder / "h", folder / "output", **settings) as launcher:
            launcher.wait_ready()
            stack = Stack(launcher, folder)
            with stack.inside():
                factories.member("alice", "acme", Role.OWNER)
            yield stack


def environment(name: str, configuration: str, level: MfaLevel = MfaLevel.NEVER) -> Environment:
    """An environment with a configuration of one main.tf; call it inside of a stack."""
    made = factories.environment(name, mfa_level=level)
    lab.upload(made, configuration)
    return made


def path(name: str) -> str:
    """The address of an environment's runs."""
    return f"/terraform/acme/environments/{name}/changes/runs"
