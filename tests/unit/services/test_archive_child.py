"""An archive is read in a process that can hurt nobody: whatever happens there, the upload is refused."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from services import archive_child
from services.archives import ArchiveInfo, ArchiveRefused, Limits
from tests.unit.services.archive_makers import MAIN, tar_gz

LIMITS = Limits(unpacked_bytes=1 << 20, files=100)
_PROLOGUE = """
import json, os, sys
sys.path.insert(0, {top!r})
from services.archive_reader import limit
action, archive, destination, packed, unpacked, files, seconds = json.load(sys.stdin)
limit(unpacked, files, seconds)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tar_gz(tmp_path / "a", [MAIN, ("module/x.tf", b"# x\n")])


def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """A reader with a fault in it, behind the real limits."""
    path = tmp_path / "reader.py"
    path.write_text(_PROLOGUE.format(top=str(Path(__file__).parents[3])) + body)
    monkeypatch.setattr(archive_child, "READER", path)


def extract(path: Path, destination: Path, limits: Limits) -> ArchiveInfo:
    with archive_child.Reader() as reader:
        return reader.extract(path, destination, limits)


def test_what_the_child_tells_is_what_the_archive_holds(archive: Path, tmp_path: Path) -> None:
    info = archive_child.inspect(archive, LIMITS)
    assert (info.kind, info.files, info.terraform_directories) == ("tar.gz", 2, ("", "module"))
    assert extract(archive, tmp_path / "out", LIMITS) == info
    assert (tmp_path / "out" / "module" / "x.tf").read_bytes() == b"# x\n"


def test_a_refusal_comes_with_its_sentence(tmp_path: Path) -> None:
    path = tar_gz(tmp_path / "a", [("../main.tf", b"")])
    with pytest.raises(ArchiveRefused, match=r"contains a path with \.\."):
        archive_child.inspect(path, LIMITS)
    with pytest.raises(ArchiveRefused):
        extract(path, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_failing_disk_is_not_the_archives_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        archive_child.inspect(tmp_path / "nothing", LIMITS)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    "body",
    [
        "b'x' * (2 << 30)",
        "while True: pass",
        "os.abort()",
        "print('no JSON')",
        "os._exit(0)",
    ],
)
def test_a_reader_that_runs_wild_is_ended_and_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    broken(monkeypatch, tmp_path, "open(destination + '/left', 'w').write('x')\n" + body)
    monkeypatch.setattr(archive_child, "SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(ArchiveRefused, match="more time or memory than is allowed"):
        extract(archive, tmp_path / "out", LIMITS)
    assert time.monotonic() - began < 30
    assert not (tmp_path / "out").exists()


def test_a_reader_that_sleeps_is_ended_too(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, tmp_path, "import time; time.sleep(600)")
    monkeypatch.setattr(archive_child, "SECONDS", 1)
    monkeypatch.setattr(archive_child, "PATIENCE", 1)
    with pytest.raises(ArchiveRefused, match="more time or memory than is allowed"):
        archive_child.inspect(archive, LIMITS)


def test_no_file_grows_beyond_what_may_come_out(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, tmp_path, "open('%s', 'wb').write(b'x' * (64 << 20))" % (tmp_path / "grown"))
    with pytest.raises(ArchiveRefused):
        archive_child.inspect(archive, LIMITS)
    assert (tmp_path / "grown").stat().st_size <= 2 << 20


def test_the_child_has_no_environment_and_no_file_of_the_server(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "canary")
    kept = os.open(archive, os.O_RDONLY)
    os.set_inheritable(kept, True)
    told = "{'environ': sorted(os.environ), 'files': len(os.listdir('/proc/self/fd'))}"
    broken(monkeypatch, tmp_path, f"print(json.dumps({{'refused': str({told})}}))")
    try:
        with pytest.raises(ArchiveRefused) as caught:
            archive_child.inspect(archive, LIMITS)
    finally:
        os.close(kept)
    # Python itself sets LC_CTYPE; the fourth is the listing.
    assert caught.value.reason in (
        "{'environ': ['LC_CTYPE'], 'files': 4}",
        "{'environ': [], 'files': 4}",
    )


def test_one_that_was_not_needed_is_gone(tmp_path: Path) -> None:
    with archive_child.Reader() as reader:
        process = reader._process
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
