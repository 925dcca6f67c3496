"""The viewers of `make bench`: they poll as the page does, when it is due, and count what goes wrong."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import load, person
from bench.person import Page

POLL = (
    '<div id="poll" hidden hx-swap-oob="true" data-every="1s" hx-get="/x/status">'
    '<input type="hidden" name="stamp" value="{stamp}">'
    '<input type="hidden" id="apply-at" name="apply_at" value="{at}"></div>'
)
NEWS = '<span>7 lines</span><input type="hidden" id="apply-at" name="apply_at" value="{at}" hx-swap-oob="true">'


def serve(answer: Callable[[int, str], bytes], viewers: int, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Let viewers look at a server that answers the n-th request with these bytes; what they asked for, too."""
    asked: list[str] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head.split(b" ")[1].decode())
                said = answer(len(asked), asked[-1])
                if not said:
                    return
                writer.write(said)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    async def both() -> dict[str, Any]:
        server = await asyncio.start_server(one, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        viewer = {"cookie": "a=b", "place": "/x", "fields": {"stamp": "s1", "apply_at": "0"}}
        task = {"port": port, "seconds": seconds, "every": 0.1, "viewers": [viewer] * viewers}
        seen = await load.view(task)
        server.close()
        await asyncio.sleep(0.05)  # until the server has seen them go
        return seen

    return asyncio.run(both()), asked


def answer(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def test_each_poll_goes_on_where_the_last_one_ended() -> None:
    def said(number: int, _: str) -> bytes:
        if number == 1:
            return answer("200 OK", NEWS.format(at=64))
        return answer("200 OK", POLL.format(stamp="s2", at=99)) if number == 2 else answer("204 No Content")

    seen, asked = serve(said, 1, 0.45)
    assert seen["answers"] == {"200": 2, "204": len(asked) - 2} and len(asked) >= 4
    assert asked[:3] == [f"/x/status?stamp={stamp}&apply_at={at}" for stamp, at in (("s1", 0), ("s1", 64), ("s2", 99))]


def test_what_goes_wrong_is_counted_and_the_viewer_goes_on() -> None:
    answers = {1: b"", 2: answer("500 Internal Server Error", "no")}
    seen, asked = serve(lambda number, _: answers.get(number, answer("204 No Content")), 1, 0.45)
    assert seen["answers"] == {"IncompleteReadError": 1, "500": 1, "204": len(asked) - 2}


def test_a_poll_counts_from_the_moment_when_it_was_due() -> None:
    def said(number: int, _: str) -> bytes:
        if number == 1:
            time.sleep(0.35)
        return answer("204 No Content")

    seen, _ = serve(said, 2, 0.3)
    # The second viewer's poll was due while the server stood still.
    assert sorted(seen["took"])[-2] > 250


class _Nobody:
    """A person whose one page is given."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get(self, _: str) -> str:
        return self._text


def test_a_page_takes_the_fields_of_its_poll_and_no_others() -> None:
    token = '<form><input type="hidden" name="csrf_token" value="secret"></form>'
    page = Page(_Nobody(token + POLL.format(stamp="a&amp;b", at=5)), "/x")  # type: ignore[arg-type]
    assert (page.fields, page.every) == ({"stamp": "a&b", "apply_at": "5"}, 1.0)
    page.absorb(token + NEWS.format(at=6))
    assert page.fields == {"stamp": "a&b", "apply_at": "6"}
    page.absorb(re.sub(r' data-every="1s"', "", POLL.format(stamp="c", at=7)))
    assert (page.fields, page.every) == ({"stamp": "c", "apply_at": "7"}, 0.0)


def test_the_page_asks_as_often_as_the_script_does() -> None:
    script = (Path(__file__).resolve().parents[3] / "static" / "log.js").read_text()
    said = {name: float(value) for name, value in re.findall(r"const (SOON|SOON_FOR) = ([0-9.]+);", script)}
    assert said == {"SOON": person.SOON, "SOON_FOR": person.SOON_FOR}
