"""A commit that fails, or that succeeds and is not answered: no line of the log is lost, and none is there twice."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from extensions import db
from models import Phase
from policy.lifecycle import RunStatus
from services import runs
from services.execution import disk
from services.execution.disk import SAID
from services.storage import logs
from tests import factories
from tests.support import lab
from tests.worker.configurations import hcl, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform

append_all = logs.append_all

CANCELED = "Cancel requested by bob: terraform is asked to stop"


def talking(gate: Path) -> str:
    """A resource whose creation counts, a line after the other, until the file ``gate`` is there (or a minute)."""
    command = f"for i in $(seq 1200); do echo $i.; test -e {gate} && exit 0; sleep 0.05; done; exit 1"
    return (
        f'resource "terraform_data" "one" {{\n  provisioner "local-exec" {{\n    command = {hcl(command)}\n  }}\n}}\n'
    )


class Commits:
    """What happens to the commits of transactions that put ``line`` into a log: each takes the next of ``fates``,
    "fails" or "unanswered"; the others succeed.
    """

    def __init__(self) -> None:
        self.line, self.fates = "", list[str]()
        self._armed = False

    def append_all(self, phase_id: int, pieces: Any, **more: Any) -> int:
        """As that of the logs."""
        if self.fates and any(self.line.encode() in data for _, data in pieces):
            self._armed = True
        return append_all(phase_id, pieces, **more)

    def commit(self, connection: Connection) -> None:
        """Right before a COMMIT."""
        if self._armed:
            self._armed = False
            if self.fates.pop(0) == "unanswered":
                connection.connection.commit()
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("database or disk is full"))


@pytest.fixture
def commits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commits]:
    made, engine = Commits(), db.engine
    monkeypatch.setattr(logs, "append_all", made.append_all)
    event.listen(engine, "commit", made.commit)
    yield made
    event.remove(engine, "commit", made.commit)


def whole(phase: Phase) -> str:
    """The log, whose bytes are as many as it says."""
    db.session.refresh(phase)
    assert len(b"".join(logs.raw(phase.id))) == phase.log_size
    return lab.log_of(phase)


FATES = [["fails"], ["unanswered"], ["fails", "fails", "unanswered"]]


@pytest.mark.parametrize("fates", FATES, ids="-".join)
def test_a_cancel_is_said_once_and_the_output_goes_on_behind_it(
    bench: Bench, commits: Commits, tmp_path: Path, fates: list[str]
) -> None:
    run, phase = bench.applying(held(tmp_path / "gate"))
    commits.line, commits.fates = CANCELED, list(fates)
    runs.cancel(factories.member("bob"), run)
    phase.result()
    assert commits.fates == [], "every one of them was met"
    assert lab.status(run) is RunStatus.CANCELED, run.error
    said = whole(run.apply)
    for line in (CANCELED, "Gracefully shutting down", "terraform_data.first: Creation complete", "Canceled by bob"):
        assert said.count(line) == 1, (line, said)


@pytest.mark.parametrize("fates", FATES, ids="-".join)
def test_a_full_disk_is_said_once_within_output_that_goes_on(
    bench: Bench, commits: Commits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fates: list[str]
) -> None:
    gate = tmp_path / "gate"
    run, phase = bench.applying(talking(gate), "(local-exec): 1.")
    commits.line, commits.fates = SAID, list(fates)
    monkeypatch.setattr(disk, "free", lambda folder: 0)
    lab.until(lambda: SAID in lab.log_of(run.apply), "it is said")
    gate.touch()
    phase.result()
    assert commits.fates == [], "every one of them was met"
    assert lab.status(run) is RunStatus.APPLIED, run.error
    said = whole(run.apply)
    assert said.count(SAID) == said.count("Apply complete! Resources: 1 added") == 1
    counted = [int(number) for number in re.findall(r"\(local-exec\): (\d+)\.\n", said)]
    assert counted == list(range(1, len(counted) + 1))
