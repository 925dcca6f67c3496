"""From the spool file that terraform writes to the pieces of the log: redacted whole lines.

Reading never touches terraform: the child writes to a file of its own, and whoever reads it may stop,
die and start again. `SpoolReader` keeps nothing but two positions, so a successor resumes exactly.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from services.execution.redact import Redactor

BATCH = 64 * 1024
"""Bytes of spool a piece is filled up to; only a single longer line makes a longer piece."""
HOLD = 1024 * 1024
"""An unfinished line is held back until it is longer than this; then its beginning is given out."""
WINDOW = HOLD + 4 * BATCH
FRAME = 64 * 1024
"""An error's frame (╷ │ ╵) is held back until it is closed or longer than this: values are broken over its lines."""

_FRAME_BEGINS, _FRAME_ENDS = "╷".encode(), "╵".encode()
_COLOURS = re.compile(rb"(?:\x1b\[[0-9;]*m)*")


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of the log: `data` stands at byte `offset` of the log.

    `spool_end` is the position in the spool up to which the log is complete with this piece. Stored in
    the same transaction as the piece, it lets another process go on without losing or doubling a byte.
    """

    offset: int
    data: bytes
    spool_end: int

    @property
    def end(self) -> int:
        """The log offset after this piece."""
        return self.offset + len(self.data)


class SpoolReader:
    """Reads what was appended to a spool file since the last time.

    `spool_offset` and `log_offset` (bytes) are where to start and, afterwards, how far everything given
    out so far reaches; they differ because redaction changes lengths. A spool file that does not exist
    yet is empty. Any bytes pass: invalid UTF-8 and NUL are kept.
    """

    def __init__(self, path: Path, redactor: Redactor, spool_offset: int = 0, log_offset: int = 0) -> None:
        self._path = path
        self._redactor = redactor
        self._file: int | None = None
        self._seen = -1
        self._wiped = 0
        self.spool_offset = spool_offset
        self.log_offset = log_offset

    def read_new(self, final: bool = False) -> list[Piece]:
        """The next pieces, in all about 1 MiB at most; call again until the answer is empty.

        Pieces are whole lines. The last, unfinished line is held back, so that a secret is never split
        over two pieces; it is given out with `final` (when the child has ended) or when it grows beyond
        `HOLD`, then cut outside of any secret and of any UTF-8 sequence.
        """
        if not final and self._unchanged():
            return []
        window, at_end = self._window()
        if not window or (not final and at_end and self._seen == self.spool_offset + len(window)):
            return []
        pieces: list[Piece] = []
        position, before = 0, (self.spool_offset, self.log_offset)
        try:
            while position < len(window):
                cut = self._cut(window, position, final and at_end)
                if cut == position:
                    break
                pieces.append(self._piece(window[position:cut]))
                position = cut
        except Exception:
            self.spool_offset, self.log_offset = before  # none of them was given out
            raise
        # Nothing more comes out of the held-back rest until the file has grown: remember its size.
        self._seen = self.spool_offset + len(window) - position if at_end else -1
        return pieces

    def wipe(self, end: int) -> None:
        """Zero what stands before `end`: the log has it, without its secrets, and nobody reads it here again."""
        if end <= self._wiped:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            for start in range(self._wiped, end, BATCH):
                os.pwrite(descriptor, bytes(min(BATCH, end - start)), start)
        finally:
            os.close(descriptor)
        self._wiped = end

    def close(self) -> None:
        """Close the spool file; reading again opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> SpoolReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unchanged(self) -> bool:
        """Whether the file is as long as at the last reading, so that the held-back rest need not be read again."""
        return self._file is not None and self._seen == os.fstat(self._file).st_size

    def _window(self) -> tuple[bytes, bool]:
        """The bytes from `spool_offset` on, at most `WINDOW`, and whether they reach the file's end."""
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return b"", True
        window = os.pread(self._file, WINDOW, self.spool_offset)
        return window, len(window) < WINDOW

    def _piece(self, data: bytes) -> Piece:
        self.spool_offset += len(data)
        piece = Piece(self.log_offset, self._redactor.apply(data), self.spool_offset)
        self.log_offset = piece.end
        return piece

    def _cut(self, window: bytes, start: int, everything: bool) -> int:
        """Where the piece that begins at `start` ends; `start` itself when it has to wait."""
        newline = window.rfind(b"\n", start, start + BATCH)
        if newline < 0:
            newline = window.find(b"\n", start + BATCH)
        if newline >= 0:
            return _outside_of_frame(window, start, newline + 1, everything)
        if len(window) - start > HOLD:
            return self._cut_inside(window, start)
        return len(window) if everything else start

    def _cut_inside(self, window: bytes, start: int) -> int:
        # A secret that ends beyond the window begins after this point, so nothing before it is unknown.
        # (Values are far shorter than `HOLD`; for a longer one only what is in the window is masked.)
        cut = len(window) - max(self._redactor.longest, 1)
        if cut <= start:
            cut = len(window) - 1
        for back in range(4):
            if window[cut - back] & 0xC0 != 0x80:
                cut -= back
                break
        for first, last in self._redactor.spans(window[start:]):
            if start + first < cut < start + last:
                return start + first if first else start + last
        return cut


def _outside_of_frame(window: bytes, start: int, cut: int, everything: bool) -> int:
    """`cut`, or the end or beginning of the frame that it would cut; `start` when the frame has to be waited for."""
    begins = window.rfind(_FRAME_BEGINS, start, cut)
    if begins < 0 or window.find(_FRAME_ENDS, begins, cut) >= 0:
        return cut
    frame = window.rfind(b"\n", start, begins) + 1 or start
    if _COLOURS.sub(b"", window[frame:begins]):
        return cut  # Something that looks like one, within a line
    closed = window.find(_FRAME_ENDS, cut, frame + FRAME)
    end = window.find(b"\n", closed, closed + BATCH) + 1 if closed >= 0 else 0
    if end:
        return end
    if frame > start:
        return frame
    return cut if everything or len(window) - start > FRAME else start
