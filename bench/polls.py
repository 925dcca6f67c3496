"""Figure 4: what a poll and the page cost where a log is long."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from bench import stack
from bench.figures import Figure, Tell, median, quantile, spread
from bench.long_log import LINES, pipeline
from bench.person import Page, Person
from bench.stack import Stack
from extensions import db
from models import Phase
from services.storage import logs

POLLS, PAGES = 400, 20

#: What a poll brings: a second's lines at 50 a second.
NEWS = b"".join(b"a line that came since the last poll, number %04d\n" % number for number in range(50))


def measure(tell: Tell) -> None:
    """4a and 4b polls, 4c and 4d the page."""
    with stack.running() as running:
        person = running.person()
        with running.inside():
            places = {"beginning": _place(running, "short", 100), "end": _place(running, "long", LINES)}
        _polls(person, places, tell)
        _pages(person, places["end"], tell)


def _place(running: Stack, name: str, lines: int) -> str:
    place = pipeline(running, name=name, lines=lines)
    phase = db.session.query(Phase).order_by(Phase.id.desc()).first()
    assert phase is not None
    logs.append(phase.id, phase.log_size, NEWS)
    db.session.commit()
    return place


def _polls(person: Person, places: dict[str, str], tell: Tell) -> None:
    pages = {name: Page(person, place) for name, place in places.items()}
    times: dict[str, list[float]] = {name: [] for name in places}
    for number in range(POLLS):
        for name, page in pages.items():
            if number % 50 == 0:  # as long as the page's stamp counts, and no longer
                page.absorb(person.get(page.place))
            page.fields["apply_at"] = str(_end(page) - len(NEWS))
            times[name].append(_timed(lambda page=page: page.poll(), number))  # type: ignore[misc]
    end, beginning = times["end"], times["beginning"]
    ratio = quantile(end, 0.95) / quantile(beginning, 0.95)
    detail: dict[str, object] = {"p50": round(median(end) / median(beginning), 3)}
    what = "a poll that brings 50 lines: p95 at the end of a million lines over p95 at the beginning"
    tell(Figure("4a", what, ratio, "×", 1.2, n=len(end), detail=detail))
    what = "the same at the end: p95"
    tell(Figure("4b", what, quantile(end, 0.95) * 1000, "ms", 20, n=len(end), spread=spread([e * 1000 for e in end])))


def _end(page: Page) -> int:
    return _ends.setdefault(page.place, int(page.fields["apply_at"]))


_ends: dict[str, int] = {}


def _timed(poll: Callable[[], str], number: int) -> float:
    begun = perf_counter()
    text = poll()
    took = perf_counter() - begun
    assert "number 0049" in text, (number, text[-500:])
    return took


def _pages(person: Person, place: str, tell: Tell) -> None:
    times, size = [], 0
    for _ in range(PAGES):
        took, text = person.timed(place)
        times.append(took * 1000)
        size = len(text.encode())
    what = "the page of the run with a million lines: median"
    detail: dict[str, object] = {"p95": round(quantile(times, 0.95), 1)}
    tell(Figure("4c", what, median(times), "ms", 100, n=PAGES, spread=spread(times), detail=detail))
    tell(Figure("4d", "its size, not compressed", size / 1000, "KB", 300))
