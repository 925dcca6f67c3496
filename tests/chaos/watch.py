"""Looks at every unfinished run all the time: does it move on, and if not, does its page say why?

Reads the database as an onlooker, in transactions that keep nobody waiting, and the page as a person would.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any

from tests.browser.cast import PASSWORD
from tests.chaos.browser import Browser, text_of
from tests.chaos.cast import ORGANIZATION
from tests.chaos.people import Diary
from tests.chaos.stack import Stack

#: Seconds without progress after which the page has to say why; and after which even that does not help.
SAID_AFTER, MOST = 60.0, 180.0
FINAL = ("planned_and_finished", "applied", "discarded", "canceled", "errored", "interrupted")
AT_WORK = ("plan_queued", "planning", "apply_queued", "applying")
#: What a lock keeps from starting.
_STARTING = ("pending", "plan_queued", "apply_queued")

_LOOK = """
SELECT run.id, environment.name AS environment, run.number, run.status, environment.active_run_id AS active,
       COALESCE(environment.locked_by_id, environment.unkept_run_id) AS locked,
       plan.status AS plan, plan.log_size AS plan_log, plan.queued_at AS plan_queued,
       apply.status AS apply, apply.log_size AS apply_log, apply.queued_at AS apply_queued,
       plan.worker AS plan_worker, apply.worker AS apply_worker
FROM run JOIN environment ON environment.id = run.environment_id
JOIN phase plan ON plan.run_id = run.id AND plan.kind = 'plan'
JOIN phase apply ON apply.run_id = run.id AND apply.kind = 'apply'
WHERE run.finished_at IS NULL ORDER BY run.id
"""
_WORKER = re.compile(r'<div class="notice[^"]*" id="worker"[^>]*>(.*?)</div></div>', re.DOTALL)
_QUEUED = re.compile(r'<p class="meta">([^<]*(?:worker|queue|Queue|Redis|locked)[^<]*)', re.DOTALL)


@dataclass
class _Seen:
    signature: tuple[object, ...]
    since: float
    told: bool = False


class Watch(threading.Thread):
    """``stuck`` gets a sentence for each run that stood still for too long."""

    def __init__(self, stack: Stack, person: str, diary: Diary) -> None:
        super().__init__(name="watch", daemon=True)
        self._stack, self._diary = stack, diary
        self._browser = Browser(stack.url, person, PASSWORD, lambda: stack.now, diary.answers.append)
        self._seen: dict[int, _Seen] = {}
        self.stuck: list[str] = []
        self.slowest = 0.0
        self.said: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        """A look every second."""
        while not self.stopping.wait(1.0):
            with contextlib.suppress(sqlite3.OperationalError):
                self.look()

    def look(self) -> None:
        """One look at all unfinished runs."""
        with contextlib.closing(sqlite3.connect(self._stack.home / "lockstep.db", timeout=5)) as connection:
            connection.row_factory = sqlite3.Row
            self.rows = [dict(row) for row in connection.execute(_LOOK)]
        unfinished: dict[str, list[int]] = {}
        for row in self.rows:
            unfinished.setdefault(row["environment"], []).append(row["number"])
            self._judge(row)
        self._diary.unfinished = unfinished
        there = {row["id"] for row in self.rows}
        self._seen = {number: seen for number, seen in self._seen.items() if number in there}

    def _judge(self, row: dict[str, Any]) -> None:
        now = self._stack.now
        waiting = waits(row)
        signature = (*(value for name, value in row.items() if name not in ("active", "locked")), waiting)
        seen = self._seen.get(row["id"])
        if seen is None or seen.signature != signature:
            self._seen[row["id"]] = _Seen(signature, now)
            return
        still = now - seen.since
        if waiting:
            return
        self.slowest = max(self.slowest, still)
        if still > MOST:
            seen.since = now
            self.stuck.append(f"{_name(row)} is {row['status']} and did not move for {still:.0f} s, until {now:.0f} s")
        elif still > SAID_AFTER and not seen.told:
            seen.told = True
            page = self._browser.get(
                f"/terraform/{ORGANIZATION}/environments/{row['environment']}/changes/runs/{row['number']}"
            )
            why = reason(page.body)
            if page.status == 200 and why:
                self.said.append(f"{now:.0f} s, {_name(row)}, {row['status']}: {why}")
            elif page.status == 200:
                self.stuck.append(
                    f"{_name(row)} is {row['status']}, did not move for {still:.0f} s until {now:.0f} s, "
                    "and its page does not say why"
                )
            else:
                seen.told = False

    def quiet(self) -> bool:
        """Whether nothing is at work, and nothing queued or pending could begin."""
        return all(waits(row) for row in self.rows)


def waits(row: dict[str, Any]) -> bool:
    """Whether a run waits for a person, for the run ahead or for an unlocking: for something that is said."""
    if row["locked"] and row["status"] in _STARTING:
        return True
    return bool(row["active"]) if row["status"] == "pending" else row["status"] not in AT_WORK


def reason(page: str) -> str:
    """What the page of a run says about why nothing moves: its notice about the worker, or about the queue."""
    found = _WORKER.search(page) or _QUEUED.search(page)
    return text_of(found[1])[:200] if found else ""


def _name(row: dict[str, Any]) -> str:
    return f"{row['environment']} #{row['number']}"
