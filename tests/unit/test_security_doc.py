"""docs/SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_every_named_test_exists() -> None:
    text = (TOP / "docs" / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 40
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (TOP / path).is_file() or (name and f"\ndef {name}(" not in (TOP / path).read_text())
    ]
    assert missing == []
