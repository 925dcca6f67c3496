"""Builds archives for tests: honest ones, and ones no tool would make."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

MAIN = ("main.tf", b'resource "terraform_data" "x" {}\n')


def tar_gz(path: Path, members: Sequence[tuple[tarfile.TarInfo | str, bytes]], **options: int) -> Path:
    """A .tar.gz of regular files, or of members as described by a TarInfo."""
    with tarfile.open(path, "w:gz", compresslevel=1, **options) as tar:  # type: ignore[call-overload]
        for info, data in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, members: Sequence[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    """A .zip, deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for info, data in members:
            archive.writestr(info, data)
    return path


def raw_tar_gz(path: Path, *blocks: bytes) -> Path:
    """Blocks as they are, compressed, with the two zero blocks that end a tar file."""
    path.write_bytes(gzip.compress(b"".join(blocks) + bytes(1024), 1))
    return path


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: int) -> bytes:
    """One 512-byte tar header with a valid checksum and any size."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    """Data filled up to a whole block."""
    return data + bytes(-len(data) % 512)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A pax header with these record bytes."""
    return header("././@PaxHeader", len(records), kind) + padded(records)


def member(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    """A TarInfo of any type."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_member(name: str, mode: int = 0, **fields: int) -> zipfile.ZipInfo:
    """A ZipInfo with unix mode bits."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info
