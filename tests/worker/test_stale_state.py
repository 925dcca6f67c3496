"""A state of a run that does not continue the current one: refused, told, and kept where it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from extensions import db
from models import StateSource
from policy.lifecycle import RunStatus
from services import states
from tests import factories
from tests.support import lab
from tests.worker.configurations import held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def test_it_stays_in_the_working_directory_and_the_page_says_where(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    applying = bench.start(run.apply)
    lab.until(lambda: states.latest(bench.environment.id), "the state of the first resource")
    # Nothing but a fault or a hand in the database saves a state beside a run that holds the environment.
    other = {"version": 4, "serial": 90, "lineage": "of-somebody-else", "resources": []}
    prepared = states.prepare(bench.environment.id, json.dumps(other).encode())
    user = factories.person("alice")
    states.save(bench.environment.id, prepared, source=StateSource.UPLOAD, user=user, force=True)
    db.session.commit()
    gate.touch()
    applying.result()
    assert lab.status(run) is RunStatus.ERRORED
    [folder] = bench.workdirs()
    where = bench.home / "work" / folder
    assert f"Terraform’s state could not be stored. It stays on the worker’s machine, in {where}." in run.error
    assert run.error_code == "state_unkept"
    assert [version.source for version in states.versions(bench.environment)] == [StateSource.UPLOAD, StateSource.RUN]
    [kept] = [path for path in where.rglob("*.tfstate") if b"terraform_data" in path.read_bytes()]
    assert {one["name"] for one in json.loads(kept.read_bytes())["resources"]} == {"first", "second"}
    assert "could not be stored" in lab.log_of(run.apply)
    shutil.rmtree(where)
