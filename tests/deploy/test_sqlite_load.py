"""SQLite under load: the processes of web and workers write all at once, and nobody meets a locked database."""

from __future__ import annotations

import http.client
import random
import re
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

import config
from app import create_app
from extensions import db
from models import Run
from policy.lifecycle import RunStatus
from policy.permissions import Role
from services import queue, runs
from tests import factories
from tests.deploy.launcher import Launched, launched, wait_until
from tests.support import lab, printed
from tests.worker.configurations import ONE, hcl

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack")]

#: On a slow machine it takes longer, until each kind of answer came so often.
CLIENTS, SECONDS, LONGEST, OFTEN = 20, 15, 120, 100
ENVIRONMENTS = [f"busy-{number}" for number in range(5)]
PRINTING = ("printing-1", "printing-2")

#: They are one account, and so many attempts at a time would be slowed down (services/throttle.py).
_DOOR = threading.Lock()

_PRINTED = re.compile(r"printed line (\d+), as fast as it goes")
_TOKEN = re.compile(r'name="csrf_token"[^>]* value="([^"]+)"|"X-CSRFToken": ?"([^"]+)"')


class Visitor(threading.Thread):
    """Somebody who reads, queues, confirms, cancels and edits without a pause to think."""

    def __init__(self, port: int, number: int, begun: float, crowd: list[Visitor]) -> None:
        super().__init__(daemon=True)
        self._port, self._number, self._begun, self._crowd = port, number, begun, crowd
        self._random = random.Random(number)
        self._cookies: dict[str, str] = {}
        self._token = ""
        self._places: list[str] = []
        self.answers: Counter[int] = Counter()
        self.did: Counter[str] = Counter()
        self.took: list[tuple[float, str]] = []
        self.bad: list[str] = []

    def run(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            with _DOOR:
                self._sign_in()
            acts: list[Callable[[], None]] = [self._read] * 10 + [self._edit] * 4 + [self._queue] * 2
            acts += [self._confirm] * 2 + [self._cancel] * 2
            while not self._enough():
                act = self._random.choice(acts)
                self.did[act.__name__] += 1
                act()
        except Exception as error:
            self.bad.append(f"{type(error).__name__}: {error}")
        finally:
            self._connection.close()

    def _enough(self) -> bool:
        took = time.monotonic() - self._begun
        often = all(sum(one.answers[status] for one in self._crowd) > OFTEN for status in (200, 303))
        return took > LONGEST or (took > SECONDS and often)

    def ask(self, method: str, path: str, data: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Status, where it leads to, and body."""
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        body = None
        if data is not None:
            body = urlencode({"csrf_token": self._token, **data})
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        begun = time.monotonic()
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        self.took.append((time.monotonic() - begun, method))
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self._cookies[key] = rest.partition(";")[0]
        self.answers[answer.status] += 1
        if answer.status >= 500 or answer.status in (400, 404) or "database" in text:
            self.bad.append(f"{method} {path}: {answer.status}")
        return answer.status, answer.getheader("Location") or "", text

    def _sign_in(self) -> None:
        self._token = self._token_of(self.ask("GET", "/login")[2])
        status, _, _ = self.ask("POST", "/login", {"username": "alice", "password": factories.PASSWORD})
        assert status == 303, status
        self._token = self._token_of(self.ask("GET", self._home())[2])

    def _token_of(self, page: str) -> str:
        found = _TOKEN.search(page)
        assert found is not None, page[:500]
        return found[1] or found[2]

    def _home(self) -> str:
        return f"/terraform/acme/environments/{self._random.choice(ENVIRONMENTS)}/changes/runs"

    def _read(self) -> None:
        printing = f"/terraform/acme/environments/{self._random.choice(PRINTING)}/changes/runs/1"
        self.ask("GET", self._random.choice([self._home(), printing, printing, *self._places[-1:]]))

    def _queue(self) -> None:
        _, place, _ = self.ask("POST", self._home(), {})
        if place:
            self._places.append(place)

    def _confirm(self) -> None:
        self._press("confirm")

    def _cancel(self) -> None:
        self._press("cancel")

    def _press(self, button: str) -> None:
        if self._places:
            self.ask("POST", f"{self._random.choice(self._places[-3:])}/{button}", {})

    def _edit(self) -> None:
        where = self._home().replace("changes/runs", "variables/environment")
        name = f"NAME_{self._number}_{self._random.randrange(10**9)}"
        self.ask("POST", where, {"name": name, "value": "x", "category": "env"})


@contextmanager
def inside(home: Path) -> Iterator[None]:
    """The database of a running installation, from this process."""
    app = create_app(config.load({"LOCKSTEP_HOME": str(home)}))
    with app.app_context():
        try:
            yield
        finally:
            queue.connection().close()
            db.session.remove()
            db.engine.dispose()


def printer(stop: Path) -> str:
    """A resource that prints numbered lines until the file is there."""
    batch = 'seq -f "printed line %.0f, as fast as it goes" $a $((a + 199))'
    script = f"a=1; while ! test -e {shlex.quote(str(stop))}; do {batch}; a=$((a + 200)); sleep 0.05; done"
    return f'resource "terraform_data" "it" {{\n  provisioner "local-exec" {{\n    command = {hcl(script)}\n  }}\n}}\n'


def begin(stop: Path) -> list[int]:
    """People, environments, and two runs whose apply prints."""
    factories.member("alice", "acme", Role.OWNER)
    for name in ENVIRONMENTS:
        lab.upload(factories.environment(name), ONE)
    made = []
    for name in PRINTING:
        environment = factories.environment(name)
        made.append(lab.new_run(environment, lab.upload(environment, printer(stop))))
    for run in made:
        lab.until(lambda run=run: lab.status(run) is RunStatus.AWAITING_CONFIRMATION, "planned")  # type: ignore[misc]
        runs.confirm(factories.member(), run)
    for run in made:
        lab.until(lambda run=run: "printed line" in lab.log_of(run.apply), "it prints")  # type: ignore[misc]
    return [run.id for run in made]


def visit(port: int) -> list[Visitor]:
    visitors: list[Visitor] = []
    visitors += [Visitor(port, number, time.monotonic(), visitors) for number in range(CLIENTS)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(LONGEST + 60)
        assert not visitor.is_alive()
    return visitors


def check_log(run_id: int) -> int:
    """It was applied, and every line is there in order; how many lines."""
    run = db.session.get_one(Run, run_id)
    lab.until(lambda: lab.status(run).final, "the run ends")
    assert lab.status(run) is RunStatus.APPLIED, run.error
    log = lab.log_of(run.apply)
    numbers = [int(found[1]) for _, found in printed.lines(log, _PRINTED)]
    if numbers != list(range(1, len(numbers) + 1)):
        odd = next(place for place, number in enumerate(numbers, 1) if number != place)
        where = log.find(f"printed line {odd - 1},")
        raise AssertionError(f"line {odd} is {numbers[odd - 1]} of {len(numbers)}: {log[where - 300 : where + 900]!r}")
    return len(numbers)


def times(visitors: list[Visitor]) -> str:
    """How long reading and changing took, in seconds."""
    told = []
    for method in ("GET", "POST"):
        took = sorted(seconds for visitor in visitors for seconds, how in visitor.took if how == method)
        told.append(f"{method} p50 {took[len(took) // 2]:.2f} p95 {took[len(took) * 95 // 100]:.2f} max {took[-1]:.2f}")
    return ", ".join(told)


def logged(launcher: Launched) -> str:
    return launcher.output + "".join(path.read_text() for path in (launcher.home / "logs").glob("*.log"))


def test_everybody_gets_an_answer(tmp_path: Path) -> None:
    home, stop = tmp_path / "home", tmp_path / "stop"
    with launched(home, tmp_path / "output", WORKERS="3", TERRAFORM_SANDBOX="none") as launcher:
        launcher.wait_ready()
        with inside(home):
            printing = begin(stop)
        visitors = visit(launcher.port)
        stop.touch()
        with inside(home):
            lines = [check_log(run_id) for run_id in printing]
        answers = sum((visitor.answers for visitor in visitors), Counter[int]())
        did = sum((visitor.did for visitor in visitors), Counter[str]())
        figures = f"{dict(answers)} {dict(did)} lines {lines}, {times(visitors)}"
        print(figures)  # noqa: T201 (shown when the test fails, and with -s)
        assert [each for visitor in visitors for each in visitor.bad] == [], figures
        assert answers[200] > OFTEN and answers[303] > OFTEN, figures
        assert all(did[act] for act in ("_read", "_edit", "_queue", "_confirm", "_cancel")), figures
        text = logged(launcher)
        # The worker tries again and web answers 503; both say so in their logs, and neither may have to.
        assert not re.findall(
            r".*(?:database is|is away|could not look|request \w+: database| ERROR |Traceback).*", text
        )
        wait_until(lambda: launcher.status("/health") == 200, 20, "it is well afterwards")
