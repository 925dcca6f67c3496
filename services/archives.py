"""Uploaded configurations: what a .tar.gz or .zip may hold, and unpacking it without trusting it.

Only regular files and directories come out, below one fresh directory, with modes of our own. Terraform's
own leavings are passed over: `.terraform/` (providers and modules of somebody's machine) and state files
(the state is Lockstep's).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from services.archive_entries import (
    DAMAGED,
    ArchiveKind,
    ArchiveRefused,
    Entry,
    EntryKind,
    Limits,
    megabytes,
    too_large,
    too_many,
)
from services.archive_tar import tar_entries
from services.archive_zip import zip_entries

__all__ = ["ArchiveInfo", "ArchiveRefused", "Limits", "all_or_nothing", "extract", "inspect"]

Item = TypeVar("Item")
Parts = tuple[str, ...]
# Called once for each directory and each file that is kept; a file's bytes must be read to their end.
Sink = Callable[[Parts, Entry, Iterator[bytes]], None]

_LONGEST_PART = 255  # bytes: NAME_MAX of Linux file systems
_LONGEST_PATH = 1024  # bytes: leaves room below PATH_MAX (4096) for the working directory
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class ArchiveInfo(NamedTuple):
    """What an archive holds, without what is passed over: files, their bytes, and the directories with
    Terraform files ("" is the top), sorted.
    """

    kind: ArchiveKind
    files: int
    unpacked_bytes: int
    terraform_directories: tuple[str, ...]


def inspect(path: Path, limits: Limits) -> ArchiveInfo:
    """Read a whole archive and write nothing.

    :raises ArchiveRefused: with a sentence for the person who uploaded it.
    :raises OSError: the file cannot be read.
    """

    def _drop(_parts: Parts, _entry: Entry, chunks: Iterator[bytes]) -> None:
        for _ in chunks:
            pass

    return _walk(path, limits, _drop)


def extract(path: Path, destination: Path, limits: Limits) -> ArchiveInfo:
    """Unpack into a directory that is empty or not there yet; files get mode 0600 (0700 if executable).

    Everything is checked again while writing. After any failure nothing that was written is left.

    :raises ArchiveRefused: with a sentence for the person who uploaded it.
    :raises FileExistsError: the destination holds something.
    :raises OSError: reading or writing failed (a full disk, say).
    """

    def _write(parts: Parts, entry: Entry, chunks: Iterator[bytes]) -> None:
        target = destination.joinpath(*parts)
        if entry.kind is EntryKind.DIRECTORY:
            _make_directories(destination, parts)
            return
        _make_directories(destination, parts[:-1])
        try:
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:  # a file system that ignores case
            raise _duplicate("/".join(parts)) from None
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o700 if entry.executable else 0o600)
            for chunk in chunks:
                file.write(chunk)

    with all_or_nothing(destination):
        return _walk(path, limits, _write)


@contextmanager
def all_or_nothing(destination: Path) -> Iterator[None]:
    """An empty directory to write into; emptied again, or removed, when the block fails."""
    there = destination.exists()
    if there and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    destination.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for child in destination.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        if not there:
            destination.rmdir()
        raise


def _make_directories(destination: Path, parts: Parts) -> None:
    path = destination
    for part in parts:
        path = path / part
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if path.is_symlink() or not path.is_dir():
                raise _duplicate("/".join(parts)) from None


class _Tree:
    """The names seen so far, so that none comes twice and no file stands where a directory is needed."""

    def __init__(self) -> None:
        self.files: set[Parts] = set()
        self.directories: set[Parts] = set()

    def add(self, parts: Parts, *, directory: bool) -> None:
        """Take in a path; raises for one that is there already or lies below a file."""
        if parts in self.files or (not directory and parts in self.directories):
            raise _duplicate("/".join(parts))
        ancestors = parts if directory else parts[:-1]
        while ancestors and ancestors not in self.directories:
            if ancestors in self.files:
                raise _duplicate("/".join(ancestors))
            self.directories.add(ancestors)
            ancestors = ancestors[:-1]
        if not directory:
            self.files.add(parts)


def _read_entries(path: Path, limits: Limits) -> tuple[ArchiveKind, Iterator[Entry]]:
    """The kind of an archive, by its first bytes, and its entries in order.

    :raises ArchiveRefused: here or while iterating: too large, neither kind, encrypted, or damaged.
    :raises OSError: the file itself cannot be read.
    """
    size = path.stat().st_size
    if size > limits.packed_bytes:
        raise ArchiveRefused(f"The archive is larger than {megabytes(limits.packed_bytes)}.")
    if size == 0:
        raise ArchiveRefused("The file is empty.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "tar.gz", _guarded(tar_entries(path, limits))
    if magic in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip", _guarded(zip_entries(path, limits))
    raise ArchiveRefused("The file is neither a .tar.gz nor a .zip archive.")


def _guarded(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; anything a parser raises on bad input comes out as ArchiveRefused.

    tarfile and zipfile raise a dozen types on hostile bytes (ValueError, KeyError, RecursionError,
    NotImplementedError, …), so the list is turned round: only a failing disk passes.
    """
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except ArchiveRefused:
            raise
        except OSError as error:
            if error.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
                raise
            raise ArchiveRefused(DAMAGED) from error
        except Exception as error:
            raise ArchiveRefused(DAMAGED) from error
        yield item


def _walk(path: Path, limits: Limits, sink: Sink) -> ArchiveInfo:
    kind, entries = _read_entries(path, limits)
    tree, seen = _Tree(), 0
    counter = _Counter(limits)
    for entry in entries:
        seen += 1
        if seen > limits.files:
            raise too_many(limits)
        parts = _checked_name(entry.name)
        if not parts or _passed_over(parts):
            continue
        if entry.kind not in (EntryKind.FILE, EntryKind.DIRECTORY):
            raise _refused_kind(entry)
        tree.add(parts, directory=entry.kind is EntryKind.DIRECTORY)
        sink(parts, entry, counter.count(_guarded(entry.chunks)))
    directories = {"/".join(file[:-1]) for file in tree.files if _is_terraform(file[-1])}
    if not directories:
        raise ArchiveRefused("The archive contains no Terraform files (*.tf, *.tofu, *.tf.json or *.tofu.json).")
    return ArchiveInfo(kind, len(tree.files), counter.total, tuple(sorted(directories)))


class _Counter:
    """Counts the bytes that really come out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.total = 0

    def count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks as they come; raises once all of them together are too large."""
        for chunk in chunks:
            self.total += len(chunk)
            if self.total > self._limits.unpacked_bytes:
                raise too_large(self._limits)
            yield chunk


def _shown(name: str) -> str:
    """A name for a sentence: printable, and short enough to read."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in name)
    return text if len(text) <= 120 else text[:119] + "…"


def _checked_name(name: str) -> Parts:
    """The parts of an entry's name; () for the top itself ("./").

    :raises ArchiveRefused: for a name that could leave the destination or cannot be a file's name.
    """
    shown = _shown(name)
    if not name:
        raise ArchiveRefused("The archive contains an entry without a name.")
    if _CONTROL.search(name):
        raise ArchiveRefused(f"The archive contains control characters in a name ({shown}).")
    if name.startswith("/") or _DRIVE.match(name):
        raise ArchiveRefused(f"The archive contains an absolute path ({shown}). Paths must be relative.")
    if "\\" in name:
        raise ArchiveRefused(f"The archive contains a backslash in a name ({shown}).")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ArchiveRefused(f"The archive contains a path with .. ({shown}). Paths must stay inside.")
    try:
        longest = max((len(part.encode("utf-8")) for part in parts), default=0)
    except UnicodeEncodeError:
        raise ArchiveRefused(f"The archive contains a name that is not UTF-8 ({shown}).") from None
    if longest > _LONGEST_PART or len(name.encode("utf-8")) > _LONGEST_PATH:
        raise ArchiveRefused(f"The archive contains a name that is too long ({shown}).")
    return parts


#: What terraform leaves in a folder. A state that came with a configuration would be taken for the run's own.
_LEFT_BEHIND = frozenset((".terraform", ".terraform.tfstate.lock.info", "errored.tfstate"))


def _passed_over(parts: Parts) -> bool:
    return any(part in _LEFT_BEHIND or part.startswith("terraform.tfstate") for part in parts)


def _is_terraform(name: str) -> bool:
    """As Terraform and OpenTofu themselves decide: hidden files and editors' backups are not configuration."""
    return name.endswith((".tf", ".tf.json", ".tofu", ".tofu.json")) and not name.startswith((".", "#"))


def _refused_kind(entry: Entry) -> ArchiveRefused:
    what = f"The archive contains {entry.kind.value} ({_shown(entry.name)})."
    if entry.kind is EntryKind.LINK:
        return ArchiveRefused(f"{what} Links are refused; add the file itself.")
    if entry.kind is EntryKind.SPARSE:
        return ArchiveRefused(f"{what} Make the archive again without sparse files.")
    return ArchiveRefused(f"{what} Only files and directories are taken.")


def _duplicate(name: str) -> ArchiveRefused:
    return ArchiveRefused(f"The archive contains {_shown(name)} more than once.")
