"""Under CI nothing is skipped: there each tool is installed, and a skip would hide that it is missing.

A plugin, which tests/conftest.py registers.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

#: How the reason of a skip begins that is right under CI, too: the tests run on both databases there.
ALLOWED = ("SQLite only: ", "PostgreSQL only: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test, or what it needs, that skips."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips all its tests, such as one that lacks an import."""
    report = yield
    _refuse(report)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"Skipped, and under CI nothing may be: {reason}"
