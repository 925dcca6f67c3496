"""What tests/support/skipping.py makes of skips, in a run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import skipping

TESTS = """
import pytest

def test_in_the_body():
    pytest.skip("no chromium here")

@pytest.fixture
def tool():
    pytest.skip("no terraform here")

def test_in_a_fixture(tool):
    pass

@pytest.mark.skip
def test_without_a_reason():
    pass

@pytest.mark.skipif(True, reason="no postgres here")
def test_by_a_mark():
    pass

@pytest.mark.skipif(True, reason="SQLite only: one writer at a time")
def test_of_one_database():
    pass

def test_of_the_other():
    pytest.skip("PostgreSQL only: row locks")

@pytest.mark.xfail
def test_known_to_fail():
    assert False

def test_that_runs():
    pass
"""
MODULE = """
import pytest

pytest.importorskip("no_such_module")
"""


def run(folder: Path, name: str, *arguments: str, ci: str) -> str:
    """What pytest says about these tests."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    environ = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[2])} | ({"CI": ci} if ci else {})
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-p", skipping.__name__, *arguments]
    return subprocess.run([*command, name], cwd=folder, env=environ, capture_output=True, text=True, timeout=60).stdout


def test_under_ci_a_skip_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    said = run(tmp_path, "test_it.py", "-n", "1", ci="true")  # as `make test` does, through a worker's report
    assert "1 failed, 1 passed, 2 skipped, 1 xfailed, 3 errors" in said, said
    for reason in ("no chromium here", "no terraform here", "unconditional skip", "no postgres here"):
        assert f"Skipped, and under CI nothing may be: {reason}" in said
    assert "error" in run(tmp_path, "test_module.py", ci="true").splitlines()[-1]


def test_elsewhere_a_skip_is_one(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    said = run(tmp_path, "test_it.py", ci="")
    assert "1 passed, 6 skipped, 1 xfailed" in said and "failed," not in said, said


def test_all_tests_are_looked_at(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.is_registered(skipping)
