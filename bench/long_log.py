"""Figure 3: a million lines, as terraform prints them, through the pipeline alone, and as a download."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import time
from pathlib import Path

import psutil

from bench import shell, stack
from bench.figures import Figure, Tell, median, pair_ratios, spread
from bench.person import Person
from bench.stack import Stack
from extensions import db
from models import Phase, PhaseStatus, Run
from policy.lifecycle import RunStatus
from services import housekeeping
from services.execution.redact import Redactor
from services.execution.spool import SpoolReader
from services.storage import logs
from tests import factories
from tests.deploy.launcher import words

LINES = 1_000_000

#: `seq` prints its numbers with 49 digits and a line break.
PRINTER = f"seq -f '%049.0f' 1 {LINES}"
CONFIGURATION = f'resource "terraform_data" "it" {{\n  provisioner "local-exec" {{ command = "{PRINTER}" }}\n}}\n'

#: What a run may have as secrets: keys, a session token, two variables.
SECRETS = (
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "FwoGZXIvYXdz" * 30,
    "hunter2!",
    "s3cr3t",
)

_PRINTED = re.compile(rb"\(local-exec\):(?:\x1b\[0m| )*([0-9]*)\r?\n")


def measure(tell: Tell) -> None:
    """3a to 3c terraform's own million lines, 3d the pipeline, 3e to 3h the download of what it stored."""
    with stack.running() as running:
        person = running.person()
        with running.inside():
            place = pipeline(running, tell)
            _downloads(person, place, tell)
        _through_terraform(running, person, tell)


def _through_terraform(running: Stack, person: Person, tell: Tell) -> None:
    times: dict[str, list[float]] = {"lockstep": [], "shell": []}
    memory = 0.0
    # There and back: what changes on the machine meanwhile reaches both.
    for number, which in enumerate(("shell", "lockstep", "lockstep", "shell") * 2):
        if which == "shell":
            with shell.folder(CONFIGURATION) as there:
                there.seconds(shell.INIT, shell.PLAN)
                times[which].append(there.seconds(shell.APPLY, output="apply.out"))
            continue
        with running.inside():
            stack.environment(f"million-{number}", CONFIGURATION)
        place = person.post(stack.path(f"million-{number}"))
        run_id = running.run_id(place)
        running.wait_person(run_id)
        with _Watch(running) as watch:
            begun = time.monotonic()
            person.post(f"{place}/confirm")
            times[which].append(running.wait(run_id, "applied", seconds=600) - begun)
        memory = max(memory, watch.most)
        _check(_raw(person, f"{place}/apply/log.txt"))
    ratios = pair_ratios(times["lockstep"], times["shell"])
    what = "confirm → applied of a million lines of 50 bytes, over terraform apply into a file; complete, in order"
    detail: dict[str, object] = {f"{name}_s": [round(each, 2) for each in found] for name, found in times.items()}
    tell(Figure("3a", what, median(ratios), "×", 1.03, n=len(ratios), spread=spread(ratios), detail=detail))
    tell(Figure("3b", "most memory (PSS) of the process that follows it", memory, "MB", 150, n=len(ratios)))


class _Watch:
    """The most memory of the process that the worker forked for a phase, looked at twice a second."""

    def __init__(self, running: Stack) -> None:
        self._launcher = psutil.Process(running.launcher.process.pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = 0.0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.5):
            for worker in self._launcher.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "rq:worker" in words(worker):
                        self.most = max([self.most, *(pss(horse.pid) for horse in worker.children())])


def pss(pid: int) -> float:
    """The proportional set size of a process in MB (10^6 bytes), 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def ended_run(name: str) -> tuple[Run, str]:
    """A run that was applied, with nothing in its logs yet, and its address; call it inside of a stack."""
    run = factories.run(factories.environment(name), RunStatus.APPLIED)
    for phase in run.phases:
        phase.status = PhaseStatus.FINISHED
        phase.started_at = phase.finished_at = phase.log_packed_at = run.created_at
    db.session.commit()
    return run, f"{stack.path(name)}/{run.number}"


def pipeline(running: Stack, tell: Tell | None = None, name: str = "stored", lines: int = LINES) -> str:
    """A spool file of so many lines into the log of a run, as follow.py does it; answers the run's address."""
    spool = running.folder / f"{name}.spool"
    with open(spool, "wb") as file:
        for first in range(1, lines + 1, 10_000):
            file.write(b"".join(b"%049d\n" % number for number in range(first, min(first + 10_000, lines + 1))))
    run, place = ended_run(name)
    phase_id = run.phases[1].id
    begun = time.monotonic()
    with SpoolReader(spool, Redactor(SECRETS)) as reader:
        while pieces := reader.read_new(final=True):
            found = [(piece.offset, piece.data) for piece in pieces]
            logs.append_all(phase_id, found, spool_offset=pieces[-1].spool_end)
            db.session.commit()
    took = time.monotonic() - begun
    if tell is not None:
        rate = spool.stat().st_size / took / 1e6
        what = "the pipeline alone, from a ready spool file of 50 MB: read, redact, store"
        tell(Figure("3d", what, rate, "MB/s", 20, at_least=True))
    assert b"".join(logs.raw(phase_id)) == spool.read_bytes(), "the log is not complete and in order"
    db.session.rollback()
    return place


def _downloads(person: Person, place: str, tell: Tell) -> None:
    """As it lies there when the run has just ended, then compressed."""
    for figures, how in ((("3e", "3f"), "raw download"), (("3g", "3h"), "raw download of the compressed log")):
        rates, firsts = [], []
        for _ in range(5):
            first, took, size = _download(person, f"{place}/apply/log.txt")
            rates.append(size / took / 1e6)
            firsts.append(first * 1000)
        tell(Figure(figures[0], how, median(rates), "MB/s", 100, at_least=True, n=5, spread=spread(rates)))
        tell(Figure(figures[1], f"{how}: first byte", median(firsts), "ms", 100, n=5, spread=spread(firsts)))
        _pack()


def _pack() -> None:
    """What idle workers do with finished logs, now."""
    phases = db.session.query(Phase).filter(Phase.log_size > 1 << 20)
    phases.update({"log_packed_at": None})
    db.session.commit()
    while phases.filter(Phase.log_packed_at.is_(None)).count():
        housekeeping.tidy(10)
    db.session.rollback()


def _download(person: Person, path: str) -> tuple[float, float, int]:
    """Seconds to the first byte of the content, and in all, and how many bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", person.connection.port, timeout=60)
    piece = bytearray(1 << 20)
    begun = time.perf_counter()
    connection.request("GET", path, headers={"Cookie": person.cookie, "User-Agent": person.agent})
    answer = connection.getresponse()
    assert answer.status == 200
    size = len(answer.read(1))
    first = time.perf_counter() - begun
    while read := answer.readinto(piece):
        size += read
    took = time.perf_counter() - begun
    connection.close()
    return first, took, size


def _raw(person: Person, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", person.connection.port, timeout=60)
    connection.request("GET", path, headers={"Cookie": person.cookie, "User-Agent": person.agent})
    content = connection.getresponse().read()
    connection.close()
    return content


def _check(log: bytes) -> None:
    """All digits in order: on a slow machine terraform itself may print a line in two parts, but loses none of it."""
    printed = b"".join(_PRINTED.findall(log))
    assert len(printed) == 49 * LINES, f"{len(printed)} digits of {LINES} lines"
    assert printed == b"".join(b"%049d" % number for number in range(1, LINES + 1)), "they are not in order"
