"""The style sheet has rules for what the pages use, and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from blueprints import presentation, run_steps

TOP = Path(__file__).parents[2]


def classes_of_the_pages() -> set[str]:
    """Each word of the templates, scripts and views that could be a class, and the names that are put together."""
    places = (("templates", "*.html"), ("static", "*.js"), ("blueprints", "*.py"), ("services/storage", "ansi.py"))
    files = [path for place, names in places for path in (TOP / place).rglob(names) if "vendor" not in path.parts]
    words = set(re.findall(r"[A-Za-z][\w-]*", "\n".join(path.read_text() for path in files)))
    pills = [*presentation._PILLS.values(), *presentation._LOCKS.values()]
    looks = {"waiting", "running", "pending"} | {look for look, *_ in run_steps._ENDED.values()}
    words |= {f"status-{kind}" for kind, _ in pills} | {f"phase-{look}" for look in looks}
    return words | {"gate-waiting", "gate-failed", "notice-success", "htmx-request"}


def test_no_rule_is_left_over() -> None:
    sheet = re.sub(r"/\*.*?\*/|url\([^)]*\)", "", (TOP / "static/app.css").read_text(), flags=re.DOTALL)
    assert set(re.findall(r"\.([A-Za-z][\w-]*)", sheet)) - classes_of_the_pages() == set()
