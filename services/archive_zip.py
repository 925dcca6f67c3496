"""Reads the entries of a .zip in bounded memory; what its headers claim is checked or not used.

Format: PKWARE's APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import mmap
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from services.archive_entries import CHUNK, DAMAGED, ArchiveRefused, Entry, EntryKind, Limits, too_many

_ZIP_KINDS = {
    0: EntryKind.FILE,
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.DIRECTORY,
    stat.S_IFLNK: EntryKind.LINK,
}


def zip_entries(path: Path, limits: Limits) -> Iterator[Entry]:
    """The entries of a zip file, in the order of its directory; on bad input any exception at all."""
    with path.open("rb") as file:
        _refuse_many_headers(file, limits)
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) > limits.files:
                raise too_many(limits)
            # Entries that share their bytes would let a small file cost unbounded time.
            if sum(info.compress_size for info in infos) > path.stat().st_size:
                raise ArchiveRefused(DAMAGED)
            for info in infos:
                if info.flag_bits & 0x41:  # APPNOTE 4.4.4: bit 0 encrypted, bit 6 strong encryption
                    raise ArchiveRefused("The archive is encrypted. Upload it without a password.")
                # zipfile inflates other methods without a bound on what comes out at once.
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ArchiveRefused(
                        "The archive is compressed in a way other than deflate. Make it again with plain zip."
                    )
                kind = _zip_kind(info)
                chunks = _zip_chunks(archive, info) if kind is EntryKind.FILE else iter(())
                # orig_filename: `filename` is already cut at a NUL byte.
                yield Entry(info.orig_filename, kind, bool((info.external_attr >> 16) & stat.S_IXUSR), chunks)


def _refuse_many_headers(file: IO[bytes], limits: Limits) -> None:
    """Count the headers first: the zipfile module makes an object of each before anybody can, and the count
    in the end record is only a claim; each header does begin with its signature.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position, seen = content.find(b"PK\x01\x02"), 0
        while position >= 0:
            seen += 1
            # A stored .zip inside the archive has headers too: leave room for those.
            if seen > 4 * limits.files + 1000:
                raise too_many(limits)
            position = content.find(b"PK\x01\x02", position + 4)


def _zip_kind(info: zipfile.ZipInfo) -> EntryKind:
    kind = _ZIP_KINDS.get(stat.S_IFMT(info.external_attr >> 16), EntryKind.SPECIAL)
    if kind is EntryKind.FILE and info.orig_filename.endswith("/"):
        return EntryKind.DIRECTORY
    return kind


def _zip_chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as source:
        while chunk := source.read(CHUNK):
            yield chunk
