"""What is killed, filled up and lost, and when: a plan that follows from the seed, carried out by the main thread."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import redis

from deploy import redis_server
from tests.chaos.stack import Stack

#: kind → weight.
KINDS = {
    "kill web": 2,
    "kill a web process": 2,
    "kill a worker": 4,
    "kill a horse": 5,
    "kill terraform": 3,
    "kill the wrapper": 2,
    "kill terraform and its wrapper": 2,
    "kill horse and terraform": 2,
    "SIGTERM a worker": 4,
    "kill Redis": 2,
    "FLUSHALL": 3,
    "database busy": 3,
    "disk full": 1,
    "short session": 3,
    "session runs out": 3,
    "STS fails": 2,
    "what inits made is gone": 2,
}
#: What STS does for one call.
_STS = ("throttle", "error500", "drop", "malformed")


@dataclass(frozen=True)
class Deed:
    """At ``at`` seconds, ``kind``; ``share`` (0 to 1) chooses the victim, ``seconds`` how long it lasts."""

    at: float
    kind: str
    share: float
    seconds: float


def plan(seed: int, seconds: float) -> list[Deed]:
    """One deed every 1 to 5 seconds, after the first five."""
    chance, at, deeds = random.Random(f"{seed}-mischief"), 5.0, []
    kinds, weights = list(KINDS), list(KINDS.values())
    while at < seconds:
        deeds.append(Deed(round(at, 2), chance.choices(kinds, weights)[0], chance.random(), chance.uniform(2, 10)))
        at += chance.uniform(1, 5)
    return deeds


@dataclass
class Mischief:
    """Carries deeds out. ``log`` gets a line for each; ``did`` counts those that found a victim."""

    stack: Stack
    log: Callable[[str], None]
    did: Counter[str] = field(default_factory=Counter)
    _beside: list[threading.Thread] = field(default_factory=list)

    def do(self, deed: Deed) -> None:
        """One deed; a victim that is not there is passed over."""
        acts: dict[str, Callable[[Deed], str]] = {
            "kill web": lambda deed: self._web(),
            "kill a web process": self._web_process,
            "kill a worker": lambda deed: self._worker(deed, signal.SIGKILL),
            "SIGTERM a worker": lambda deed: self._worker(deed, signal.SIGTERM),
            "kill a horse": self._horse,
            "kill terraform": lambda deed: self._terraform(deed, ("pid",)),
            "kill the wrapper": lambda deed: self._terraform(deed, ("wrapper_pid",)),
            "kill terraform and its wrapper": lambda deed: self._terraform(deed, ("wrapper_pid", "pid")),
            "kill horse and terraform": self._horse_and_terraform,
            "kill Redis": lambda deed: self._redis(),
            "FLUSHALL": lambda deed: self._flush(),
            "database busy": lambda deed: self._start(self._busy, deed),
            "disk full": lambda deed: self._start(self._fill, deed) if self.stack.mounted else "",
            "short session": lambda deed: self._short(deed),
            "session runs out": lambda deed: self._run_out(),
            "STS fails": lambda deed: self._sts(deed),
            "what inits made is gone": lambda deed: self._uninitialise(),
        }
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, psutil.Error):
            victim = acts[deed.kind](deed)
            self.did[deed.kind if victim else f"{deed.kind}: nothing there"] += 1
            self.log(f"{deed.kind}: {victim or 'nothing there'}")

    def wait(self) -> None:
        """For deeds that last, and undo what stays."""
        for thread in self._beside:
            thread.join()
        self.stack.aws.switches.clear("session_cap", *_STS)

    def _web(self) -> str:
        pid = self.stack.web.pid
        if pid is None:
            return ""
        self.stack.away("web", pid)
        os.kill(pid, signal.SIGKILL)
        return str(pid)

    def _web_process(self, deed: Deed) -> str:
        children = psutil.Process(self.stack.web.pid).children() if self.stack.web.pid else []
        if not children:
            return ""
        victim = children[int(deed.share * len(children))]
        window = self.stack.away("web process")
        victim.kill()
        window.ended = self.stack.now + 3.0
        return str(victim.pid)

    def _worker(self, deed: Deed, number: signal.Signals) -> str:
        there = [child for child in self.stack.workers if child.pid]
        if not there:
            return ""
        victim = there[int(deed.share * len(there))]
        busy = self._horses(victim.pid)
        os.kill(victim.pid or 0, number)
        return f"{victim.name}, {victim.pid}, {f'with horse {busy}' if busy else 'idle'}"

    def _horses(self, pid: int | None) -> list[int]:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(pid).children() if pid else []
            return [child.pid for child in children if "worker.py" in " ".join(child.cmdline())]
        return []

    def _horse(self, deed: Deed) -> str:
        there = [pid for child in self.stack.workers for pid in self._horses(child.pid)]
        if not there:
            return ""
        victim = there[int(deed.share * len(there))]
        os.kill(victim, signal.SIGKILL)
        return str(victim)

    def _running(self) -> list[tuple[Path, dict[str, int]]]:
        """Records of steps that have not ended."""
        found = []
        for path in sorted((self.stack.home / "work").glob("phase-*/control/*.pid")):
            with contextlib.suppress(OSError, ValueError):
                if not path.with_suffix(".exit").exists():
                    found.append((path, json.loads(path.read_bytes())))
        return found

    def _terraform(self, deed: Deed, whom: tuple[str, ...]) -> str:
        there = self._running()
        if not there:
            return ""
        path, record = there[int(deed.share * len(there))]
        for name in whom:
            os.kill(record[name], signal.SIGKILL)
        return f"{path.parts[-3]} {path.stem} {record[whom[-1]]}"

    def _horse_and_terraform(self, deed: Deed) -> str:
        horse = self._horse(deed)
        return f"{horse} {self._terraform(deed, ('wrapper_pid', 'pid'))}" if horse else ""

    def _redis(self) -> str:
        pid = self.stack.redis.pid
        if pid is None:
            return ""
        self.stack.away("redis", pid)
        os.kill(pid, signal.SIGKILL)
        return str(pid)

    def _flush(self) -> str:
        with contextlib.suppress(redis.RedisError):
            client = redis.Redis(unix_socket_path=str(redis_server.socket_path(self.stack.home)), socket_timeout=5)
            size = client.dbsize()
            client.flushall()
            client.close()
            return f"{size} keys"
        return ""

    def _start(self, act: Callable[[Deed], None], deed: Deed) -> str:
        thread = threading.Thread(target=act, args=(deed,), daemon=True)
        thread.start()
        self._beside.append(thread)
        return f"for {deed.seconds:.1f} s"

    def _busy(self, deed: Deed) -> None:
        with contextlib.closing(sqlite3.connect(self.stack.home / "lockstep.db", timeout=20)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(deed.seconds)
            connection.execute("ROLLBACK")

    def _fill(self, deed: Deed) -> None:
        filler = self.stack.home / "work" / f".filler-{deed.at}"
        window = self.stack.away("disk")
        end = time.monotonic() + deed.seconds
        try:
            with open(filler, "wb", buffering=0) as file:
                while time.monotonic() < end:
                    try:
                        file.write(bytes(1 << 16))
                    except OSError:
                        with contextlib.suppress(OSError):
                            file.write(bytes(1 << 12))
                        time.sleep(0.05)
        finally:
            filler.unlink()
            window.ended = self.stack.now

    def _short(self, deed: Deed) -> str:
        """The next session is shorter than asked for: too short to begin with, or just long enough."""
        seconds = 280.0 if deed.share < 0.6 else 301.0 + deed.seconds
        self.stack.aws.switches.set("session_cap", seconds=seconds, calls=1, action="GetSessionToken")
        return f"{seconds:.0f} s for one"

    def _run_out(self) -> str:
        """Phases that run behind a gate have half a minute left. The worker sees it when it begins the next step."""
        soon = f"{datetime.now(UTC) + timedelta(seconds=30):%Y-%m-%d %H:%M:%S.%f}"
        change = "UPDATE phase SET session_expires_at = ? WHERE status = 'running' AND authenticated_at IS NOT NULL"
        with contextlib.closing(sqlite3.connect(self.stack.home / "lockstep.db", timeout=30)) as connection:
            changed = connection.execute(change, (soon,)).rowcount
            connection.commit()
        return f"{changed} phases" if changed else ""

    def _sts(self, deed: Deed) -> str:
        switch = _STS[int(deed.share * len(_STS))]
        self.stack.aws.switches.set(switch, calls=1, action="GetSessionToken")
        return switch

    def _uninitialise(self) -> str:
        """The next applies have an init of their own, as on another machine than their plan's."""
        there = [path for path in (self.stack.home / "work").glob("kept-*") if not path.suffix]
        for path in there:
            gone = path.with_name(f"{path.name}.chaos")
            path.rename(gone)
            shutil.rmtree(gone)
        return ", ".join(path.name for path in there)
