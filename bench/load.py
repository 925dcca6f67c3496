"""Many pages that poll, as a process of its own: `python -m bench.load` reads its task from standard input.

The task is JSON: port, viewers (cookie, place and fields of each), seconds, every. It prints JSON: the milliseconds
that each poll took, and what went wrong. A poll counts from the moment when it was due. Sockets and a little byte
searching only, so that it takes little from those it watches.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import urlencode

AGENT = "bench"

_POLL = re.compile(rb'<div id="poll"(.*?)</div>', re.DOTALL)
_FIELD = re.compile(rb'<input type="hidden"(?: id="[a-z-]+")? name="([a-z_]+)" value="([^"]*)"')
_AT = re.compile(rb'<input type="hidden" id="(?:plan|apply)-at" name="([a-z_]+)" value="(\d+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Viewer:
    """One page on a connection that is kept."""

    def __init__(self, port: int, cookie: str, place: str, fields: dict[str, str]) -> None:
        self._port, self._place, self._fields = port, place, fields
        self._rest = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: {AGENT}\r\nCookie: {cookie}\r\n\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.took: list[float] = []
        self.answers: Counter[str] = Counter()

    async def look(self, first: float, end: float, every: float) -> None:
        """Poll from ``first`` to ``end``; what comes late is followed by the next poll that is due."""
        due = first
        while due < end:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            try:
                status, body = await self._ask()
                self.answers[str(status)] += 1
                self._absorb(body)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.answers[type(error).__name__] += 1
                self._hang_up()
            self.took.append((time.monotonic() - due) * 1000)
            due += every
            while due < time.monotonic() - every:
                due += every
        self._hang_up()

    async def _ask(self) -> tuple[int, bytes]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        assert self._reader is not None
        self._writer.write(f"GET {self._place}/status?{urlencode(self._fields)}{self._rest}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        found = _LENGTH.search(head)
        body = await self._reader.readexactly(int(found[1])) if found and status != 204 else b""
        if b"connection: close" in head.lower():
            self._hang_up()
        return status, body

    def _absorb(self, body: bytes) -> None:
        poll = _POLL.search(body)
        if poll is not None:
            self._fields = {name.decode(): value.decode() for name, value in _FIELD.findall(poll[1])}
        else:
            self._fields.update((name.decode(), value.decode()) for name, value in _AT.findall(body))

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


async def view(task: dict[str, Any]) -> dict[str, Any]:
    """Let them all look; their first polls are spread over one interval."""
    viewers = [Viewer(task["port"], one["cookie"], one["place"], dict(one["fields"])) for one in task["viewers"]]
    begun, every = time.monotonic() + 0.2, task["every"]
    end = begun + task["seconds"]
    spent = time.process_time()
    looks = [one.look(begun + number * every / len(viewers), end, every) for number, one in enumerate(viewers)]
    await asyncio.gather(*looks)
    await asyncio.sleep(0)  # the sockets are closed in the loop's next round
    answers = sum((one.answers for one in viewers), Counter[str]())
    took = [each for one in viewers for each in one.took]
    return {"took": took, "answers": answers, "cpu": time.process_time() - spent}


def main() -> None:
    """Read the task, do it, print what came out."""
    json.dump(asyncio.run(view(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
