"""Reading and removing what a stranger may have written: never through a link, never a pipe, never without an end.

A run's commands can put anything into their folders: a link to the vault's keys where the state should be, a pipe that
keeps its reader waiting, folders nested deeper than any recursion. Every part of a path below the working directory is
opened with O_NOFOLLOW, so what is read is what lies there. The working directory itself is Lockstep's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotAFile(OSError):
    """There is something, but no ordinary file: a link, a pipe, a folder."""


class TooLarge(NotAFile):
    """An ordinary file, but larger than any that is read."""


def read(root: Path, path: Path, most: int) -> bytes:
    """The content of the file `path` below the folder `root`, at most `most` bytes.

    Raises FileNotFoundError when nothing is there, TooLarge, and NotAFile for anything but a file, also when a folder
    on the way is a link.
    """
    with _parent(root, path) as (folder, name):
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError:
            raise NotAFile(f"{path.name} is no file.") from None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise NotAFile(f"{path.name} is no file.")
            if found.st_size > most:
                raise TooLarge(f"{path.name} has {found.st_size} bytes.")
            return file.read(most)


def changed(root: Path, path: Path) -> int | None:
    """When the file `path` below `root` was last written, in ns; None when there is no such file."""
    try:
        with _parent(root, path) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def is_folder(root: Path, path: Path) -> bool:
    """Whether `path` below `root` is a folder, with no link on the way."""
    try:
        with _parent(root, path / "any"):
            return True
    except OSError:
        return False


def give(root: Path, name: str, uid: int) -> None:
    """Make `uid` the owner of `name` in `root` and of everything in it."""
    pending = [root / name]
    while pending:
        path = pending.pop()
        with _parent(root, path) as (folder, last):
            os.chown(last, uid, uid, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                continue
        with _parent(root, path / "any") as (folder, _), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path / entry.name)
                else:
                    os.chown(entry.name, uid, uid, dir_fd=folder, follow_symlinks=False)


def copy(root: Path, path: Path, place: Path, *, most: int, bytes_most: int, linked: str = "") -> None:
    """Make the folder `place`, a copy of the folder `path` below `root`; what is below its folder `linked` is the same
    files under further names (hard links) instead.

    Symbolic links stay what they are. Raises FileNotFoundError, NotAFile for anything that is no folder, file or link,
    TooLarge for more than `most` of these or `bytes_most` bytes to copy, and OSError; `place` is then half made.
    """
    os.mkdir(place, stat.S_IRWXU)
    pending, left, room = [PurePath()], most, bytes_most
    while pending:
        below = pending.pop()
        with _parent(root, path / below / "any") as (source, _), _parent(place, place / below / "any") as (target, _):
            with os.scandir(source) as entries:
                found = list(itertools.islice(entries, left + 1))
            left -= len(found)
            if left < 0:
                raise TooLarge(f"{path.name} holds more than {most} files.")
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    os.mkdir(entry.name, stat.S_IRWXU, dir_fd=target)
                    pending.append(below / entry.name)
                elif entry.is_symlink() or (below.parts[:1] == (linked,) and entry.is_file(follow_symlinks=False)):
                    os.link(entry.name, entry.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                else:
                    room -= _copy_file(entry.name, source, target, room)


def _copy_file(name: str, source: int, target: int, most: int) -> int:
    """How many bytes it had."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=source), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise NotAFile(f"{name} is no file.")
        if found.st_size > most:
            raise TooLarge(f"{name} has {found.st_size} bytes.")
        content = file.read(most)
    made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, found.st_mode & 0o700, dir_fd=target)
    with open(made, "wb") as file:
        file.write(content)
    return len(content)


def remove(root: Path) -> None:
    """Remove the folder `root` with everything in it; what is gone already, or goes meanwhile, is fine.

    Folders in it are moved to the top first and emptied there: no path gets long, and nothing is recursive.
    """
    try:
        top = os.open(root, _FOLDER)
    except FileNotFoundError:
        return
    try:
        for name in iter(lambda: next(_folders(top), None), None):
            with contextlib.suppress(FileNotFoundError):  # another process removes the same; the loop looks again
                _empty(name, top)
        _unlink_all(top)
    finally:
        os.close(top)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(root)


def _empty(name: str, top: int) -> None:
    """Remove the folder `name` of `top`; the folders in it are put beside it."""
    _open_up(name, top)
    folder = os.open(name, _FOLDER, dir_fd=top)
    try:
        for inner in _folders(folder):
            _open_up(inner, folder)  # moving a folder writes into it
            os.rename(inner, f".{secrets.token_hex(16)}", src_dir_fd=folder, dst_dir_fd=top)
        _unlink_all(folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _open_up(name: str, folder: int) -> None:
    """Modules and providers can come with folders that their owner may not write or enter."""
    os.chmod(name, stat.S_IRWXU, dir_fd=folder)


def _folders(folder: int) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    yield from found


def _unlink_all(folder: int) -> None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _parent(root: Path, path: Path) -> Iterator[tuple[int, str]]:
    """The opened folder of `path` and the last part of its name; NotAFile where a link is on the way."""
    *folders, name = path.relative_to(root).parts
    if ".." in (*folders, name):
        raise NotAFile(f"{path.name} leads out of its folder.")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            try:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError:
                raise
            except OSError:
                raise NotAFile(f"{part} is no folder.") from None
            os.close(descriptor)
            descriptor = below
        yield descriptor, name
    finally:
        os.close(descriptor)
