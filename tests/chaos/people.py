"""People who use Lockstep while the mischief goes on: each a thread that reads a page and does what it offers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.browser.cast import PASSWORD
from tests.chaos import configurations
from tests.chaos.browser import Answer, Browser, Page
from tests.chaos.cast import ORGANIZATION
from tests.chaos.stack import Stack

#: Unfinished runs in one environment, beyond which nobody queues another one.
CROWD = 3
#: How often somebody who sees the form uses it.
_EAGER = {"confirm": 0.7, "authenticate": 0.75, "discard": 0.06, "cancel": 0.06, "force": 0.3, "give-up": 0.2}


@dataclass
class Diary:
    """What people did and what was answered, and which codes they typed."""

    answers: list[Answer] = field(default_factory=list)
    did: Counter[str] = field(default_factory=Counter)
    codes: list[str] = field(default_factory=list)
    #: environment → numbers of runs that have not ended, kept up to date by the watch
    unfinished: dict[str, list[int]] = field(default_factory=dict)


class Person(threading.Thread):
    """Acts until told to stop. The order of wishes follows from the seed; what a page offers does not."""

    typing = threading.Lock()  # the devices share one clock, and asking for a code moves it on

    def __init__(self, name: str, seed: int, stack: Stack, environments: list[str], diary: Diary) -> None:
        super().__init__(name=name, daemon=True)
        self._chance = random.Random(f"{seed}-{name}")
        self._stack, self._environments, self._diary = stack, environments, diary
        self.browser = Browser(stack.url, name, PASSWORD, lambda: stack.now, diary.answers.append)
        self._wrong = 0
        self._made = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        """One thing after another."""
        while not self.stopping.wait(self._chance.uniform(0.2, 1.6)):
            self.act(self._chance.choice(self._environments))

    def act(self, environment: str) -> None:
        """Look at an environment and do something there, or not."""
        where = f"/terraform/{ORGANIZATION}/environments/{environment}"
        unfinished = self._diary.unfinished.get(environment, [])
        wish = self._chance.random()
        if wish < 0.03:
            self._lock(where)
        elif len(unfinished) < CROWD and wish < 0.45:
            self._queue(where)
        elif unfinished:
            self.look_at(f"{where}/changes/runs/{self._chance.choice(unfinished)}")

    def look_at(self, path: str, **eager: float) -> bool:
        """Read the page of a run and press at most one of its buttons; whether one was pressed."""
        page = self.browser.get(path)
        for name in ("authenticate", "confirm", "give-up", "force", "cancel", "discard"):
            if name in page.forms and self._chance.random() < (eager or _EAGER).get(name, 0):
                self._press(page, name)
                return True
        return False

    def unlock(self, environment: str) -> None:
        """Take the locks off."""
        page = self.browser.get(f"/terraform/{ORGANIZATION}/environments/{environment}/settings")
        for name in ("unlock", "go-on"):
            if name in page.forms:
                self._did(name, self.browser.submit(page.forms[name]))

    def _press(self, page: Page, name: str) -> None:
        twice = self._chance.random() < 0.15
        if name != "authenticate":
            self._did(name, self.browser.submit(page.forms[name], twice=twice), twice)
            return
        with Person.typing:
            wrong = self._wrong < 2 and self._chance.random() < 0.06
            self._wrong += wrong
            code = self._stack.aws.wrong_code(self.name) if wrong else self._stack.aws.code(self.name)
            self._diary.codes.append(code)
            status = self.browser.submit(page.forms[name], twice=twice, token=code)
        self._did("wrong code" if wrong else "code", status, twice)

    def _queue(self, where: str) -> None:
        page = self.browser.get(f"{where}/changes/runs")
        again, twice = self._chance.random() < 0.2, self._chance.random() < 0.15
        if again and "runs" in page.forms:
            self._did("queue", self.browser.submit(page.forms["runs"], twice=twice), twice)
        elif "configurations" in page.forms:
            self._made += 1
            place = configurations.Place(str(self._stack.world), self._stack.waits.url)
            text = configurations.make(self._chance, f"{self.name}{self._made}", place)
            archive = configurations.pack(text)
            status = self.browser.submit(page.forms["configurations"], archive=archive, twice=twice, message=self.name)
            self._did("upload", status, twice)

    def _lock(self, where: str) -> None:
        page = self.browser.get(f"{where}/settings")
        if "lock" not in page.forms:
            return
        self._did("lock", self.browser.submit(page.forms["lock"], reason="chaos"))
        time.sleep(self._chance.uniform(2, 8))
        self.unlock(where.rpartition("/")[2])

    def _did(self, what: str, status: int, twice: bool = False) -> None:
        how = ", double click" if twice else ""
        if status not in (200, 303):
            how += f", answered {status}" if status else ", not answered"
        self._diary.did[f"{what}{how}"] += 1
