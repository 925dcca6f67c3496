"""The table of docs/PERFORMANCE.md, between two marker lines, and what is said of the machine."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, table

PATH = Path(__file__).resolve().parents[1] / "docs" / "PERFORMANCE.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"


def machine() -> str:
    """Date, versions and size of the machine, without its name or any path of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    redis = _first_line("redis-server", "--version").split("v=")[-1].split(" ")[0]
    facts = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory",
        f"Linux {platform.release().split('-')[0]} on {platform.machine()}",
        f"Python {platform.python_version()}",
        _first_line("terraform", "version"),
        f"SQLite {sqlite3.sqlite_version}",
        f"Redis {redis}",
    ]
    return "; ".join(fact for fact in facts if fact) + "."


def content(figures: Sequence[Figure]) -> str:
    """What stands between the markers."""
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    return f"{machine()} Load average at the end: {load}.\n\n{table(figures)}"


def write(figures: Sequence[Figure], path: Path = PATH) -> None:
    """Put the figures between the markers of the document; all else in it stays."""
    path.write_text(between(path.read_text(), content(figures)))


def between(text: str, new: str) -> str:
    """``text`` with ``new`` between its two marker lines. Raises ValueError without them."""
    before, found, rest = text.partition(BEGIN + "\n")
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"The document lacks the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{new}{END}{after}"


def _first_line(name: str, *arguments: str) -> str:
    program = shutil.which(name)
    if program is None:
        return ""
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | {"CHECKPOINT_DISABLE": "1"}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, env=env)
    return done.stdout.partition("\n")[0]
