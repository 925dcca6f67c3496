"""The order of things: start, mischief, settling, winding up, and what is found at the end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict

from tests.browser.cast import PEOPLE
from tests.chaos import cast, evidence, leaks, mischief
from tests.chaos.people import Diary, Person
from tests.chaos.stack import Stack
from tests.chaos.watch import Watch

#: Seconds for runs at work to end once the mischief is over: a lease, a look around, and the longest apply, twice.
SETTLE = 180.0
#: Seconds to discard what waits and to see what was pending begin, and for directories to be swept.
WIND_UP, SWEEP = 240.0, 90.0
_NAMED = re.compile(r"(phase-\d+-\d+) holds a state that is stored nowhere else")


class Driver:
    """One chaos."""

    def __init__(self, seed: int, environments: int, people: int) -> None:
        self.seed = seed
        self.names = cast.names(environments)
        self.stack = Stack(seed)
        self.diary = Diary()
        self.people = [Person(name, seed, self.stack, self.names, self.diary) for name in PEOPLE[:people]]
        self.watch = Watch(self.stack, PEOPLE[-1], self.diary)
        self.closer = Person(PEOPLE[-2], seed, self.stack, self.names, self.diary)
        self.mischief = mischief.Mischief(self.stack, self._note)
        self.took: dict[str, float] = {}

    def run(self, seconds: float) -> None:
        """Everything up to the point where nothing moves any more."""
        self.stack.start(len(self.names))
        for person in self.people:
            person.start()
        self.watch.start()
        for deed in mischief.plan(self.seed, seconds):
            self._idle(lambda deed=deed: self.stack.now >= deed.at, 1e9)  # type: ignore[misc]
            self.mischief.do(deed)
        self._idle(lambda: self.stack.now >= seconds, 1e9)
        self.mischief.wait()
        self._note("the mischief is over")
        for person in self.people:
            person.stopping.set()
        self._idle(lambda: not any(person.is_alive() for person in self.people), 60)
        self._timed("settle", self._settled, SETTLE)
        self._timed("wind up", self._wound_up, WIND_UP)
        self._timed("sweep", self._swept, SWEEP)
        self.watch.stopping.set()
        self.watch.join()

    def _settled(self) -> bool:
        self._look()
        return self.watch.quiet()

    def _wound_up(self) -> bool:
        """Unlock everything and discard what waits, until every run has ended."""
        for name in self.names:
            if any(row["environment"] == name and row["locked"] for row in self.watch.rows):
                self.closer.unlock(name)
        for row in self.watch.rows:
            if row["status"] in ("awaiting_confirmation", "awaiting_apply_authentication") or row["status"].endswith(
                "plan_authentication"
            ):
                where = f"/terraform/{cast.ORGANIZATION}/environments/{row['environment']}/changes/runs/{row['number']}"
                self.closer.look_at(where, discard=1.0)
        self._look()
        return not self.watch.rows

    def _swept(self) -> bool:
        left = {path.name for path in (self.stack.home / "work").glob("phase-*")}
        return left <= set(self._named())

    def _named(self) -> list[str]:
        """Working directories that the workers themselves name as holding an unsaved state."""
        text = "".join(path.read_text(errors="replace") for path in self.stack.logs.glob("worker*"))
        return sorted(set(_NAMED.findall(text)))

    def evidence(self) -> evidence.Evidence:
        """What there is now."""
        found = evidence.from_json(self.stack.once("tests.chaos.evidence"))
        for run in found.runs:
            where = f"/terraform/{cast.ORGANIZATION}/environments/{run.environment}/changes/runs/{run.number}"
            for kind, phase in run.phases.items():
                phase.rendered = self.closer.browser.log(f"{where}/{kind}/log") if phase.log else ""
        found.world = self.stack.world.read_text().splitlines()
        found.named_workdirs = self._named()
        found.secrets = leaks.found(self.stack, self.diary.codes, found.named_workdirs)
        found.stuck = self.watch.stuck
        found.answers = [asdict(answer) for answer in self.diary.answers if not 0 < answer.status < 500]
        found.windows = [asdict(window) for window in self.stack.windows]
        return found

    def _look(self) -> None:
        """Wait for a look of the watch that began after now."""
        time.sleep(1.2)

    def _timed(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        began = self.stack.now
        done = self._idle(condition, seconds)
        self.took[what] = self.stack.now - began
        self._note(f"{what}: {'done' if done else 'NOT done'} after {self.took[what]:.0f} s")

    def _idle(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Keep everything running until something is so, or the time is over; whether it is so."""
        end = self.stack.now + seconds
        while True:
            self.stack.mind()
            if condition():
                return True
            if self.stack.now > end:
                return False
            time.sleep(0.05)

    def _note(self, text: str) -> None:
        with open(self.stack.folder / "chaos.log", "a") as log:
            log.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {self.stack.now:7.1f} s  {text}\n")
