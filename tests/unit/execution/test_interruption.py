"""What is kept of terraform's lock file, which the run can write."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.execution.interruption import _lock
from services.execution.redact import HideAll, Redactor
from services.execution.work import Work
from services.execution.workdir import Workdir

TERRAFORMS = {
    "ID": "5f0e4f5c-3a86-5c1e-8c49-6a3d2f7f5a10",
    "Operation": "OperationTypeApply",
    "Who": "run@ip-10-0-0-1",
    "Created": "2025-11-28T14:00:57.123456789Z",
}
SECRET = "tr0ub4dor&3"


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir.create(tmp_path, 1, 1, "")


def kept(workdir: Workdir, written: Any, redactor: Redactor | None = None) -> dict[str, str] | None:
    path = workdir.state_path.with_name(f".{workdir.state_path.name}.lock.info")
    path.write_text(json.dumps(written))
    return _lock(cast(Work, SimpleNamespace(workdir=workdir, redactor=redactor or Redactor([SECRET]))))


def test_what_terraform_wrote_is_kept(workdir: Workdir) -> None:
    assert kept(workdir, TERRAFORMS) == {name: TERRAFORMS[name] for name in ("Operation", "Who", "Created")}


@pytest.mark.parametrize("name", ["Operation", "Who", "Created"])
@pytest.mark.parametrize(
    "value", [SECRET, f"run@{SECRET}", f"{'x' * 195}{SECRET}", [SECRET], {SECRET: 1}, f"a\n{SECRET}"]
)
def test_a_lock_file_that_the_run_wrote_shows_no_secret(workdir: Workdir, name: str, value: Any) -> None:
    found = kept(workdir, TERRAFORMS | {name: value})
    assert found is not None and len(found[name]) <= 200
    assert not any(SECRET[:4] in text for text in found.values())


def test_where_nothing_is_known_to_be_hidden_nothing_is_kept(workdir: Workdir) -> None:
    assert kept(workdir, TERRAFORMS, HideAll()) == {"Operation": "", "Who": "", "Created": ""}


@pytest.mark.parametrize("written", [None, [], "text", 7])
def test_what_is_no_lock_file_is_nothing(workdir: Workdir, written: Any) -> None:
    assert kept(workdir, written) is None
