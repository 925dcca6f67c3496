"""From spool to log: whole lines, exact positions, no secret cut in two."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.execution.redact import MASK, Redactor
from services.execution.spool import BATCH, HOLD, Piece, SpoolReader

SECRET = "correct horse battery staple"


def drain(reader: SpoolReader, final: bool = False) -> list[Piece]:
    pieces: list[Piece] = []
    while new := reader.read_new(final):
        pieces += new
    return pieces


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def joined(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def test_whole_lines_and_a_held_back_rest(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with SpoolReader(path, Redactor([SECRET])) as reader:
        assert reader.read_new() == []
        append(path, b"one\ntwo " + SECRET[:9].encode())
        assert reader.read_new() == [Piece(0, b"one\n", 4)]
        assert reader.read_new() == []
        append(path, SECRET[9:].encode() + b"\nthr\xc3")
        assert reader.read_new() == [Piece(4, b"two " + MASK + b"\n", 9 + len(SECRET))]
        append(path, b"\xa9\x00\xff")
        assert reader.read_new() == []
        (last,) = reader.read_new(final=True)
        assert last.data == "thré".encode() + b"\x00\xff"
        assert last.spool_end == path.stat().st_size == reader.spool_offset
        assert reader.log_offset == last.end
        assert reader.read_new(final=True) == []


def test_what_was_read_before_a_fault_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, apply, calls = tmp_path / "spool", Redactor.apply, []
    spool.write_bytes(b"a" * BATCH + b"\nb\n")

    def once(redactor: Redactor, data: bytes) -> bytes:
        calls.append(data)
        if len(calls) == 2:
            raise MemoryError
        return apply(redactor, data)

    monkeypatch.setattr(Redactor, "apply", once)
    with SpoolReader(spool, Redactor(set())) as reader:
        with pytest.raises(MemoryError):
            reader.read_new()
        pieces = drain(reader)
    assert joined(pieces) == spool.read_bytes() and len(calls) == 2 + len(pieces)


def test_pieces_are_filled_up_to_a_batch_and_calls_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    lines = b"".join(b"line %d\n" % number for number in range(400_000))
    append(path, lines)
    reader = SpoolReader(path, Redactor([]))
    first = reader.read_new()
    assert sum(len(piece.data) for piece in first) < HOLD + 8 * BATCH
    pieces = first + drain(reader)
    assert joined(pieces) == lines
    assert all(BATCH - 20 < len(piece.data) <= BATCH for piece in pieces[:10])
    assert all(piece.data.endswith(b"\n") for piece in pieces)
    reader.close()


def test_a_line_of_a_megabyte_stays_whole_and_a_longer_one_is_given_out_safely(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    reader = SpoolReader(path, Redactor([SECRET]))
    append(path, b"a" * HOLD)
    assert reader.read_new() == []
    append(path, b"\n")
    assert [len(piece.data) for piece in drain(reader)] == [HOLD + 1]
    # The secret and a two-byte character stand across the place where an unfinished line is cut.
    for shift in range(2 * len(SECRET)):
        append(path, b"b" * (HOLD - shift) + SECRET.encode() + "é".encode() * 30)
        for piece in drain(reader):
            piece.data.decode()
            assert not any(word in piece.data for word in (b"correct", b"horse", b"battery", b"staple"))
        append(path, b"\n")
        assert drain(reader)[-1].data.endswith(b"\n")
    reader.close()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from([b"\n", b"\n\n", b"x" * (BATCH - 1) + b"\n", b"y" * (HOLD // 2)]),
            st.sampled_from([SECRET[:5].encode(), SECRET[5:].encode(), SECRET.encode()]),
        ),
        max_size=12,
    ),
    st.lists(st.sampled_from(["read", "resume", "repeat"]), min_size=12, max_size=12),
)
def test_no_byte_is_lost_or_doubled(appends: list[bytes], actions: list[str]) -> None:
    redactor = Redactor([SECRET])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spool"
        path.touch()
        reader = SpoolReader(path, redactor)
        stored: list[Piece] = []
        for data, action in zip(appends, actions, strict=False):
            append(path, data)
            if action == "read":
                stored += reader.read_new()
                continue
            # Another process goes on from what is stored; with "repeat" the last reading was not stored.
            if action == "repeat":
                reader.read_new()
            reader.close()
            last = stored[-1] if stored else Piece(0, b"", 0)
            reader = SpoolReader(path, redactor, last.spool_end, last.end)
        before_the_end = list(stored)
        stored += drain(reader, final=True)
        reader.close()
        log = joined(stored)
        assert [piece.offset for piece in stored] == [
            sum(len(earlier.data) for earlier in stored[:number]) for number in range(len(stored))
        ]
        assert log == redactor.apply(path.read_bytes())
        assert SECRET.encode() not in log
        short = [piece for piece in before_the_end if len(piece.data) < HOLD // 2]
        assert all(piece.data.endswith(b"\n") for piece in short)


def test_an_unfinished_line_is_not_read_again_while_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spool"
    append(path, b"one\n" + b"x" * 500_000)
    reads: list[int] = []
    pread = os.pread

    def counted(file: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(file, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    with SpoolReader(path, Redactor([])) as reader:
        assert joined(reader.read_new()) == b"one\n"
        reads.clear()
        assert reader.read_new() == [] and reads == []
        append(path, b"\n")
        assert joined(reader.read_new()) == b"x" * 500_000 + b"\n"


def test_a_frame_is_held_back_until_it_is_closed(tmp_path: Path) -> None:
    """A value is broken over the lines of an error's frame, so the lines must come together."""
    path = tmp_path / "spool"
    redactor = Redactor(["correct horse battery"])
    lines = ["one\n", "\x1b[31m╷\x1b[0m\n", "│ Error: correct\n", "│ horse battery is wrong\n", "╵\n", "two\n"]
    reader = SpoolReader(path, redactor)
    got = b""
    with path.open("a") as file:
        for line in lines:
            file.write(line)
            file.flush()
            got += b"".join(piece.data for piece in reader.read_new())
            if "horse" in line:
                assert got == b"one\n"
    assert got == "one\n\x1b[31m╷\x1b[0m\n│ Error: ••• is wrong\n╵\ntwo\n".encode()


def test_a_frame_that_is_never_closed_is_given_out(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_text("╷\n" + "│ x\n" * 10)
    reader = SpoolReader(path, Redactor([]))
    assert reader.read_new() == []
    assert b"".join(piece.data for piece in reader.read_new(final=True)) == path.read_bytes()
    path.write_text("╷\n" + "│ x\n" * 20_000)
    reader = SpoolReader(path, Redactor([]))
    assert b"".join(piece.data for piece in reader.read_new()) == path.read_bytes()


def test_what_the_log_has_is_wiped_and_the_child_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    append(path, f"one {SECRET}\n".encode() * 5_000)
    reader = SpoolReader(path, Redactor([SECRET]))
    first = drain(reader)
    with path.open("ab") as child:
        reader.wipe(first[-1].spool_end)
        assert SECRET.encode() not in path.read_bytes()
        child.write(b"two\n")
    again = SpoolReader(path, Redactor([SECRET]), first[-1].spool_end, first[-1].end)
    again.wipe(first[-1].spool_end)
    assert joined(drain(again)) == b"two\n"
    assert path.stat().st_size == first[-1].spool_end + 4
