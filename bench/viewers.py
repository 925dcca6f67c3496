"""Figure 5: many people who watch one run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import stack
from bench.figures import Figure, Tell, median, pair_ratios, quantile, spread
from bench.first_line import printing
from bench.person import Page, Person
from bench.stack import Stack
from policy.permissions import Role
from tests import factories

VIEWERS, SECONDS, PAIRS, PEOPLE = 200, 12, 2, 10

#: Lines a second, and how long each takes to compute: a fifth of a core.
RATE, WORK = 50, 0.004

#: The staircase: viewers more, and seconds, of each step.
STEP, STEP_SECONDS, MOST = 100, 8, 1200


@dataclass
class Seen:
    """What the viewers of one run met."""

    took: list[float]
    answers: dict[str, int]
    cpu: float

    @property
    def p95(self) -> float:
        return quantile(self.took, 0.95)

    @property
    def bad(self) -> int:
        return sum(count for status, count in self.answers.items() if status not in ("200", "204"))


def measure(tell: Tell) -> None:
    """5a to 5c with 200 of them, 5d the moment when their run ends, 5e how many there may be."""
    with stack.running() as running:
        people = [running.person(name) for name in _people(running)]
        _two_hundred(running, people, tell)
        _end(running, people, tell)
        _staircase(running, people, tell)


def _people(running: Stack) -> list[str]:
    names = ["alice", *(f"viewer-{number}" for number in range(1, PEOPLE))]
    with running.inside():
        for name in names:
            factories.member(name, "acme", Role.OWNER if name == "alice" else Role.MEMBER)
    return names


def _two_hundred(running: Stack, people: list[Person], tell: Tell) -> None:
    alone: list[float] = []
    watched: list[float] = []
    all_seen: list[Seen] = []
    for number in range(2 * PAIRS):
        name = f"watched-{number}"
        with running.inside():
            stack.environment(name, printing((SECONDS + 3) * RATE, RATE, WORK))
        page, run_id = _printing(running, people[0], name)
        begun = time.monotonic()
        if number % 2:
            all_seen.append(_watch(running, people, page, VIEWERS, SECONDS))
        running.wait(run_id, "applied")
        spent = (
            "SELECT (julianday(finished_at) - julianday(started_at)) * 86400 FROM phase WHERE run_id = ? AND kind = ?"
        )
        (watched if number % 2 else alone).append(running.number(spent, run_id, "apply"))
        assert time.monotonic() - begun < 10 * SECONDS
    took = [each for seen in all_seen for each in seen.took]
    what = f"{VIEWERS} viewers that poll once a second while a run prints {RATE} lines a second: p95"
    detail: dict[str, object] = {"p50": round(median(took), 1), "p99": round(quantile(took, 0.99), 1)}
    detail["generator_cpu_s"] = round(sum(seen.cpu for seen in all_seen), 2)
    tell(Figure("5a", what, quantile(took, 0.95), "ms", 100, n=len(took), spread=spread(took), detail=detail))
    answers: dict[str, object] = {status: sum(s.answers.get(status, 0) for s in all_seen) for status in _all(all_seen)}
    tell(
        Figure("5b", "answers other than 200 and 204", sum(s.bad for s in all_seen), "", 0, n=len(took), detail=answers)
    )
    slower = [(ratio - 1) * 100 for ratio in pair_ratios(watched, alone)]
    what = "the apply slowed by them (it prints, and computes a fifth of a core)"
    tell(Figure("5c", what, median(slower), "%", 10, n=len(slower), spread=spread(slower)))


def _all(seen: list[Seen]) -> list[str]:
    return sorted({status for one in seen for status in one.answers})


def _end(running: Stack, people: list[Person], tell: Tell) -> None:
    """All of them get the new parts of the page within one second."""
    with running.inside():
        stack.environment("ending", printing(5 * RATE, RATE))
    page, run_id = _printing(running, people[0], "ending")
    seen = _watch(running, people, page, VIEWERS, 8)
    running.wait(run_id, "applied")
    what = f"the moment when a run that {VIEWERS} people watch ends: the slowest poll"
    tell(Figure("5d", what, max(seen.took), "ms", n=len(seen.took), detail={"bad": seen.bad}))


def _staircase(running: Stack, people: list[Person], tell: Tell) -> None:
    with running.inside():
        stack.environment("stairs", printing(RATE * 600, RATE))
    page, run_id = _printing(running, people[0], "stairs")
    reached, steps = 0, dict[str, object]()
    for count in range(VIEWERS, MOST + 1, STEP):
        seen = _watch(running, people, page, count, STEP_SECONDS)
        steps[str(count)] = round(seen.p95, 1)
        if seen.p95 > 250 or seen.bad:
            break
        reached = count
    what = f"most viewers, in steps of {STEP}, with p95 not above 250 ms"
    tell(Figure("5e", what, reached, "viewers", n=len(steps), detail=steps))
    people[0].post(f"{page.place}/cancel")
    running.wait(run_id, "canceled")


def _printing(running: Stack, person: Person, name: str) -> tuple[Page, int]:
    """A run whose apply prints by now, and its page."""
    place = person.post(stack.path(name))
    run_id = running.run_id(place)
    running.wait_person(run_id)
    person.post(f"{place}/confirm")
    printed = "SELECT log_lines FROM phase WHERE run_id = ? AND kind = 'apply'"
    stack.until(lambda: running.number(printed, run_id) > 25, 60)
    return Page(person, place), run_id


def _watch(running: Stack, people: list[Person], page: Page, count: int, seconds: float) -> Seen:
    """So many pages for so many seconds, spread over the people."""
    fields = []
    for person in people:
        seen = Page(person, page.place)
        fields.append({"cookie": person.cookie, "place": page.place, "fields": seen.fields})
    task: dict[str, Any] = {"port": running.port, "seconds": seconds, "every": 1.0}
    task["viewers"] = [fields[number % len(fields)] for number in range(count)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        timeout=seconds + 120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Seen(**json.loads(done.stdout))
