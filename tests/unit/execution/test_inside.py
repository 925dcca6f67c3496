"""What a run's commands may put in the place of a file, and that nothing of it leads a reader or a remover astray."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.execution import inside
from services.execution.workdir import Workdir

SECRET = b"canary-of-another"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Folder and file that belong to somebody else."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "keys").write_bytes(SECRET)
    (folder / "keys").chmod(0o400)
    folder.chmod(0o500)
    return folder


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir.create(tmp_path / "data", 1, 1)


def test_a_link_in_the_place_of_a_file_is_not_followed(workdir: Workdir, outside: Path) -> None:
    places = (workdir.state_path, workdir.errored_state_path, workdir.plan_path, workdir.config / ".terraform.lock.hcl")
    for path in places:
        path.symlink_to(outside / "keys")
        with pytest.raises(inside.NotAFile):
            workdir.read(path)
        assert inside.changed(workdir.root, path) is None
        path.unlink()
        assert workdir.read(path) is None
        path.write_bytes(b"its own")
        assert workdir.read(path) == b"its own"


def test_a_link_in_the_place_of_a_folder_is_not_followed(workdir: Workdir, outside: Path) -> None:
    (outside.parent / "terraform.tfstate").write_bytes(SECRET)
    (workdir.config / ".terraform").symlink_to(outside.parent)
    with pytest.raises(inside.NotAFile):
        workdir.read(workdir.config / ".terraform" / "terraform.tfstate")
    below = Workdir(workdir.root, "below")
    (workdir.config / "below").symlink_to(outside)
    with pytest.raises(Exception, match="no folder 'below'"):
        _ = below.cwd
    (workdir.config / "real").mkdir()
    assert Workdir(workdir.root, "real").cwd == workdir.config / "real"


def test_a_pipe_keeps_nobody_waiting_and_a_file_without_end_is_not_read(workdir: Workdir) -> None:
    os.mkfifo(workdir.state_path)
    with pytest.raises(inside.NotAFile):
        workdir.read(workdir.state_path)
    with workdir.plan_path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(inside.TooLarge):
        workdir.read(workdir.plan_path)


def test_removing_follows_no_link_and_takes_what_is_deep_or_closed(workdir: Workdir, outside: Path) -> None:
    for number, folder in enumerate((workdir.root, workdir.config, workdir.tmp)):
        (folder / f"to-folder-{number}").symlink_to(outside)
        (folder / f"to-file-{number}").symlink_to(outside / "keys")
    closed = workdir.config / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    (closed / "to-folder").symlink_to(outside)
    closed.chmod(0)
    top = os.open(workdir.tmp, os.O_RDONLY)
    for _ in range(3000):  # deeper than a recursion goes, and than a path is long
        os.mkdir("d", dir_fd=top)
        below = os.open("d", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    workdir.remove()
    assert not workdir.root.exists()
    assert (outside / "keys").read_bytes() == SECRET
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert stat.S_IMODE((outside / "keys").stat().st_mode) == 0o400
    workdir.remove()


def test_handing_over_follows_no_link(workdir: Workdir, outside: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    (workdir.config / "link").symlink_to(outside / "keys")
    (workdir.config / "folder").symlink_to(outside)
    (workdir.config / "real").mkdir()
    (workdir.config / "real" / "file").write_text("x")
    inside.give(workdir.root, "config", 12345)
    assert (outside.stat().st_uid, (outside / "keys").stat().st_uid) == (0, 0)
    assert (workdir.config / "real" / "file").stat().st_uid == 12345
