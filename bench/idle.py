"""Figure 7: what Lockstep takes while nothing happens, and how fast it is there."""

from __future__ import annotations

import http.client
import tempfile
import time
from pathlib import Path

import psutil

from bench import stack
from bench.figures import Figure, Tell, median, spread
from bench.long_log import pss
from bench.stack import Stack
from tests.deploy.launcher import launched, words

STARTS, SETTLE = 5, 3.0


def measure(tell: Tell) -> None:
    """7a memory with the default settings, 7b the start."""
    with stack.running() as running:
        stack.until(lambda: sum("Listening" in words(each) for each in running.launcher.family()) == 2, 60)
        time.sleep(SETTLE)
        _memory(running, tell)
    _starts(tell)


def _memory(running: Stack, tell: Tell) -> None:
    parts = _parts(running)
    detail: dict[str, object] = {name: round(size, 1) for name, size in parts.items()}
    what = "idle memory (PSS) of web, workers and Redis, default settings (WEB_PROCESSES=2, WORKERS=2)"
    together = sum(size for name, size in parts.items() if name != "launcher")
    tell(Figure("7a", what, together, "MB", 180, n=1, detail=detail))
    person = running.person()
    for _ in range(20):
        person.get("/terraform/acme")
    time.sleep(SETTLE)
    parts = _parts(running)
    together = sum(size for name, size in parts.items() if name != "launcher")
    detail = {name: round(size, 1) for name, size in parts.items()}
    tell(Figure("7a'", "the same after somebody looked at pages", together, "MB", n=1, detail=detail))


def _parts(running: Stack) -> dict[str, float]:
    """MB of each part with all its processes; the launcher is the one that they were forked from."""
    launcher = psutil.Process(running.launcher.process.pid)
    parts = {"web": 0.0, "workers": 0.0, "redis": 0.0, "launcher": pss(launcher.pid)}
    for process in launcher.children():
        title = words(process)
        name = "redis" if "redis" in title.split(" ")[0] else "workers" if "rq:worker:" in title else "web"
        parts[name] += sum(pss(one.pid) for one in (process, *process.children(recursive=True)))
    return parts


def _starts(tell: Tell) -> None:
    """`make run` with a venv and a data folder that are there: from its first instruction to the first 200."""
    times = []
    with tempfile.TemporaryDirectory(prefix="lb-", ignore_cleanup_errors=True) as name:
        for number in range(STARTS + 1):
            begun = time.monotonic()
            with launched(Path(name) / "h", Path(name) / "output") as launcher:
                stack.until(lambda port=launcher.port: _answers(port), 60)  # type: ignore[misc]
                took = time.monotonic() - begun
                launcher.wait_ready()
            if number:  # the first start makes the data folder
                times.append(took)
    tell(Figure("7b", "cold start to the first 200", median(times), "s", 2, n=STARTS, spread=spread(times)))


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
