"""The stand-in is for the demo and the tests: no part of the application may know it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
APPLICATION = ["app.py", "config.py", "extensions.py", "cli.py", "worker.py"]
PACKAGES = ["blueprints", "models", "policy", "services", "migrations"]


def imported(path: Path) -> set[str]:
    """The top-level names a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("part", [*APPLICATION, *PACKAGES])
def test_the_application_does_not_import_the_demo(part: str) -> None:
    place = ROOT / part
    files = [place] if place.suffix else sorted(place.rglob("*.py"))
    assert [file.name for file in files if file.exists() and {"demo", "tests"} & imported(file)] == []


def test_the_stand_in_imports_nothing_of_the_application() -> None:
    known = {Path(name).stem for name in APPLICATION} | set(PACKAGES)
    for file in (ROOT / "demo" / "aws").glob("*.py"):
        assert not known & imported(file), file.name
