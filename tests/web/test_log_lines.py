"""Which lines of a log a page shows: blueprints/log_lines.py alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blueprints import log_lines
from services.storage.ansi import final_sgr
from services.storage.log_chunks import Chunk

LARGE = 1 << 30
PIECES = st.text("a\n\x1b", max_size=30).map(lambda text: text.replace("\x1b", "\x1b[31m").encode())


def chunks_of(pieces: list[bytes]) -> list[Chunk]:
    """As they are stored, one for each piece."""
    found: list[Chunk] = []
    offset, line, sgr, unfinished = 0, 1, "", False
    for data in filter(None, pieces):
        found.append(Chunk(offset, line, sgr, None, data, unfinished))
        offset, line, sgr = offset + len(data), line + data.count(b"\n"), final_sgr(data, sgr)
        unfinished = not data.endswith(b"\n")
    return found


@given(st.lists(PIECES, max_size=8), st.integers(1, 6))
def test_the_last_lines_are_those_of_all_that_were_rendered(pieces: list[bytes], most: int) -> None:
    chunks = chunks_of(pieces)
    everything = log_lines.to_end(chunks, "plan", LARGE, LARGE)
    shown = log_lines.to_end(chunks, "plan", LARGE, most)
    if everything is None:
        assert shown is None
        return
    assert shown is not None
    assert (shown.count, shown.last, shown.end) == (min(everything.count, most), everything.last, everything.end)
    assert str(shown.html).count("<li") == shown.count
    assert str(everything.html).endswith(str(shown.html))
