"""Reads the entries of a .tar.gz as a stream, in bounded memory and linear time.

Python's tarfile would read a pax header of any declared size into memory, search it in quadratic time
(CVE-2024-6232), and take a header that does not parse for the end of the archive. It is used here for the
512-byte header only. Formats: gzip (RFC 1952), ustar and pax (POSIX.1-2017, pax), GNU long names.
"""

from __future__ import annotations

import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from services.archive_entries import CHUNK, DAMAGED, MIB, ArchiveRefused, Entry, EntryKind, Limits, too_large

_HEADER_ALLOWANCE = MIB  # most bytes of pax records and long names before one entry
_TYPICAL_HEADERS = 4096  # most bytes of headers and padding of an entry, on average
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_SANE_GZIP_MEMBERS = 10_000


def tar_entries(path: Path, limits: Limits) -> Iterator[Entry]:
    """The entries of a gzip-compressed tar file, in order; on bad input any exception at all."""
    with path.open("rb") as file:
        yield from _TarReader(_Gunzip(file, limits), limits).entries()


class _Gunzip:
    """Decompresses gzip members one after the other, up to a ceiling on the bytes that come out."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._total = 0
        self._ceiling = limits.unpacked_bytes + limits.files * _TYPICAL_HEADERS + _HEADER_ALLOWANCE
        self._members = 1
        self._inflate = zlib.decompressobj(wbits=31)
        self._pending = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end. Never more than `size` are held."""
        parts: list[bytes] = []
        wanted = size
        while wanted > 0:
            data = self._inflate_some(wanted)
            if not data:
                break
            parts.append(data)
            wanted -= len(data)
        self._total += size - wanted
        if self._total > self._ceiling:
            raise too_large(self._limits)
        return b"".join(parts)

    def _inflate_some(self, most: int) -> bytes:
        while True:
            if self._inflate.eof and not self._next_member():
                return b""
            # Small pieces: zlib hands back (copies) the unread rest of its input on each call.
            piece = self._pending or self._file.read(CHUNK // 4)
            data = self._inflate.decompress(piece, most)
            self._pending = self._inflate.unconsumed_tail
            if data:
                return data
            if not piece and not self._inflate.eof:
                raise ArchiveRefused(DAMAGED)

    def _next_member(self) -> bool:
        rest = self._inflate.unused_data.lstrip(b"\0")
        while not rest:
            piece = self._file.read(CHUNK)
            if not piece:
                return False
            rest = piece.lstrip(b"\0")
        self._members += 1
        if self._members > _SANE_GZIP_MEMBERS:
            raise ArchiveRefused(DAMAGED)
        self._inflate = zlib.decompressobj(wbits=31)
        self._pending = rest
        return True


def _pax_records(data: bytes) -> dict[str, bytes]:
    """The records of a pax header, "LENGTH KEY=VALUE NEWLINE" each, read in linear time."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        space = data.index(b" ", position, position + 8)
        end = position + int(data[position:space])
        key, equals, value = data[space + 1 : end].partition(b"=")
        if end <= space + 1 or not equals or not value.endswith(b"\n"):
            raise ArchiveRefused(DAMAGED)
        records[key.decode("utf-8")] = value[:-1]
        position = end
    return records


def _tar_kind(header: tarfile.TarInfo, records: dict[str, bytes]) -> EntryKind:
    if header.issym() or header.islnk():
        return EntryKind.LINK
    if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in records):
        return EntryKind.SPARSE
    if header.isdir():
        return EntryKind.DIRECTORY
    return EntryKind.FILE if header.isreg() else EntryKind.SPECIAL


class _TarReader:
    """Walks the 512-byte blocks of a tar stream. The header itself is read by tarfile (checksum, octal and
    base-256 numbers, ustar prefix); what makes it large, pax and GNU long names, is read here, bounded.
    """

    def __init__(self, stream: _Gunzip, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits

    def entries(self) -> Iterator[Entry]:
        """Every entry in the order of the archive."""
        while (found := self._next_header()) is not None:
            header, records, long_name = found
            name = records["path"].decode("utf-8", "surrogateescape") if "path" in records else long_name
            size = int(records.get("size", header.size))
            if not 0 <= size <= self._limits.unpacked_bytes:
                raise too_large(self._limits)
            # As tarfile has it: the known kinds other than files carry no data, whatever their size says.
            left = size if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES else 0
            kind = _tar_kind(header, records)
            data = self._data(left)
            yield Entry(header.name if name is None else name, kind, bool(header.mode & stat.S_IXUSR), data)
            for _ in data:  # what was not wanted
                pass
        # Reading on to the end checks the checksum of the gzip trailer; padding is zeros.
        while data_after := self._stream.read(CHUNK):
            if data_after.strip(b"\0"):
                raise ArchiveRefused(DAMAGED)

    def _next_header(self) -> tuple[tarfile.TarInfo, dict[str, bytes], str | None] | None:
        """The next entry's header with its pax records and GNU long name; None at the end."""
        records: dict[str, bytes] = {}
        long_name: str | None = None
        budget = _HEADER_ALLOWANCE
        while True:
            block = self._stream.read(tarfile.BLOCKSIZE)
            if not block.strip(b"\0"):
                if records or long_name is not None:
                    raise ArchiveRefused(DAMAGED)
                return None
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if header.type not in _EXTENSIONS:
                return header, records, long_name
            budget -= header.size + tarfile.BLOCKSIZE
            if header.size < 0 or budget < 0:
                raise ArchiveRefused("The archive has oversized headers. Make it again with plain tar.")
            data = b"".join(self._data(header.size))
            if header.type == tarfile.GNUTYPE_LONGNAME:
                long_name = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                records.update(_pax_records(data))
            # Global headers (git writes the commit there) and long link targets are of no use here.

    def _data(self, size: int) -> Iterator[bytes]:
        """Exactly `size` bytes of the stream, and its padding to a whole block."""
        padding = -size % tarfile.BLOCKSIZE
        while size:
            chunk = self._stream.read(min(size, CHUNK))
            if not chunk:
                raise ArchiveRefused(DAMAGED)
            size -= len(chunk)
            yield chunk
        if len(self._stream.read(padding)) != padding:
            raise ArchiveRefused(DAMAGED)
