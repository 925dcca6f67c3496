"""Archives made to hurt: bombs, lies in headers, and arbitrary bytes."""

from __future__ import annotations

import gzip
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.archives import ArchiveRefused, Limits, extract, inspect
from tests.unit.services.archive_makers import (
    MAIN,
    header,
    padded,
    pax,
    raw_tar_gz,
    tar_gz,
    zip_member,
    zip_of,
)

MIB = 1024 * 1024
LIMITS = Limits()
SMALL = Limits(packed_bytes=MIB, unpacked_bytes=MIB, files=50)
DAMAGED = "The archive is damaged or cut short. Make it again and upload it once more."


@contextmanager
def bounded(seconds: float = 5, memory: int = 16 * MIB) -> Iterator[None]:
    """The block stays below a time and below a peak of Python's memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - started < seconds
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def refusal(path: Path, limits: Limits = LIMITS) -> str:
    """The reason, found within bounds, with nothing left behind."""
    destination = path.parent / "out"
    with bounded(), pytest.raises(ArchiveRefused) as caught:
        extract(path, destination, limits)
    assert not destination.exists()
    return caught.value.reason


def gzip_of_zeros(path: Path, size: int, *first: bytes) -> Path:
    """A .gz whose content begins with blocks and goes on with zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"".join(first))
        for _ in range(size // MIB):
            file.write(bytes(MIB))
    return path


def test_a_gzip_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    limits = Limits(unpacked_bytes=8 * MIB)
    one_file = gzip_of_zeros(tmp_path / "a", 200 * MIB, header("main.tf", 200 * MIB))
    assert refusal(one_file, limits).startswith("The archive unpacks to more than 8 MB.")
    passed_over = gzip_of_zeros(tmp_path / "b", 200 * MIB, header(".terraform/x", 7 * MIB), header("x", 7 * MIB))
    assert refusal(passed_over, limits)
    after_the_end = gzip_of_zeros(tmp_path / "c", 200 * MIB, header("main.tf"), bytes(1024))
    assert refusal(after_the_end, Limits(unpacked_bytes=8 * MIB, files=20)).startswith("The archive unpacks to more")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_huge_header_is_not_read_into_memory(tmp_path: Path, kind: bytes) -> None:
    path = gzip_of_zeros(tmp_path / "a", 100 * MIB, header("x", 7 << 30, kind))
    assert refusal(path) == "The archive has oversized headers. Make it again with plain tar."


def test_a_chain_of_headers_ends(tmp_path: Path) -> None:
    path = raw_tar_gz(tmp_path / "a", *[pax(b"")] * 5000, header("main.tf"))
    assert refusal(path) == "The archive has oversized headers. Make it again with plain tar."
    small_ones = raw_tar_gz(tmp_path / "b", *([pax(b"11 a=bcdef\n")] * 1000 + [header("main.tf")]) * 100)
    assert refusal(small_ones).startswith("The archive contains main.tf more than once")


@pytest.mark.parametrize(
    "records", [b"9" * 900_000, b"9" * 7 + b" " + b"x" * 900_000, b"1 " * 400_000, b"-5 a=b\n", b"0 a=b\n"]
)
def test_hostile_pax_records_cost_no_time(tmp_path: Path, records: bytes) -> None:
    assert refusal(raw_tar_gz(tmp_path / "a", pax(records), header("main.tf"))) == DAMAGED


@pytest.mark.parametrize("size", [-512, -(1 << 40), 1 << 62])
def test_impossible_sizes_are_refused(tmp_path: Path, size: int) -> None:
    assert refusal(raw_tar_gz(tmp_path / "a", header("main.tf"), header("x.tf", size)))


def test_a_pax_size_wins_over_the_header(tmp_path: Path) -> None:
    path = raw_tar_gz(tmp_path / "a", pax(b"9 size=3\n"), header("main.tf", 0), padded(b"abc"))
    assert extract(path, tmp_path / "out", LIMITS).unpacked_bytes == 3


def test_a_pax_path_is_checked_like_any_name(tmp_path: Path) -> None:
    path = raw_tar_gz(tmp_path / "a", pax(b"19 path=../evil.tf\n"), header("main.tf"))
    assert refusal(path).startswith("The archive contains a path with .. (../evil.tf)")
    long = raw_tar_gz(
        tmp_path / "b", header("L", 12, tarfile.GNUTYPE_LONGNAME), padded(b"/etc/evil.tf"), header("main.tf")
    )
    assert refusal(long).startswith("The archive contains an absolute path (/etc/evil.tf)")


def test_a_header_that_does_not_parse_is_not_taken_for_the_end(tmp_path: Path) -> None:
    assert refusal(raw_tar_gz(tmp_path / "a", header("main.tf"), b"x" * 512, header("b.tf"))) == DAMAGED


def test_data_behind_the_end_is_refused(tmp_path: Path) -> None:
    assert refusal(raw_tar_gz(tmp_path / "a", header("main.tf"), bytes(1024), header("b.tf"))) == DAMAGED


def test_every_truncation_of_a_tar_gz_is_refused(tmp_path: Path) -> None:
    whole = tar_gz(tmp_path / "a", [MAIN, ("b.txt", os.urandom(300))]).read_bytes()
    for length in range(1, len(whole), 7):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(ArchiveRefused):
            inspect(tmp_path / "a", LIMITS)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tar_gz(tmp_path / "a", [MAIN])
    data = path.read_bytes()
    path.write_bytes(data[:-8] + struct.pack("<I", zlib.crc32(b"other")) + data[-4:])
    assert refusal(path) == DAMAGED


def test_gzip_members_follow_each_other_but_not_for_ever(tmp_path: Path) -> None:
    whole = b"".join([header("main.tf"), bytes(1024)])
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]) + bytes(512))
    assert inspect(path, LIMITS).files == 1
    path.write_bytes(gzip.compress(whole) + gzip.compress(b"") * 200_000)
    assert refusal(path) == DAMAGED


def test_a_zip_header_that_lies_about_its_size_helps_nobody(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", [MAIN, ("big", bytes(100 * MIB))])
    real, lie = struct.pack("<I", 100 * MIB), struct.pack("<I", 10)
    honest = path.read_bytes()
    assert refusal(path, Limits(unpacked_bytes=MIB)).startswith("The archive unpacks to more than 1 MB.")
    path.write_bytes(honest.replace(real, lie))
    assert refusal(path) == DAMAGED


def test_a_zip_of_too_many_entries_is_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"PK\x03\x04" + (b"PK\x01\x02" + bytes(42)) * 1_000_000)
    assert refusal(path).startswith("The archive has more than 20,000 entries.")


def test_zip_entries_may_not_share_their_bytes(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", [MAIN, ("b.txt", os.urandom(1000))])
    with zipfile.ZipFile(path, "a") as archive:
        shared = archive.infolist()[1]
        for name in ("c.txt", "d.txt"):
            twin = zip_member(name, header_offset=shared.header_offset)
            twin.compress_size, twin.file_size, twin.CRC = shared.compress_size, shared.file_size, shared.CRC
            twin.compress_type = shared.compress_type
            archive.filelist.append(twin)
        archive._didModify = True  # type: ignore[attr-defined]  # rewrite the directory
    assert refusal(path) == DAMAGED


def test_a_full_sized_archive_is_inspected_in_time(tmp_path: Path) -> None:
    noise = os.urandom(MIB)
    files = [(f"modules/{n}/main.tf", noise + b"x" * 4 * MIB) for n in range(48)]
    for make in (tar_gz, zip_of):
        path = make(tmp_path / "a", files)
        assert path.stat().st_size > 45 * MIB
        started = time.perf_counter()
        assert inspect(path, LIMITS).unpacked_bytes == 240 * MIB
        assert time.perf_counter() - started < 10


def check_whatever_it_is(content: bytes) -> None:
    """It is refused or unpacked; nothing else happens, and nothing is written anywhere else."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "archive").write_bytes(content)
        try:
            info = extract(root / "archive", root / "deep" / "out", SMALL)
        except ArchiveRefused as error:
            refused = error
            assert refused.reason.endswith(".") and len(refused.reason) < 300
            assert refused.reason.isprintable()
            assert not (root / "deep" / "out").exists()
            with pytest.raises(ArchiveRefused):
                inspect(root / "archive", SMALL)
        else:
            found = [path for path in (root / "deep" / "out").rglob("*") if not path.is_dir()]
            assert all(path.is_file() and not path.is_symlink() for path in found)
            assert len(found) == info.files
            assert sum(path.stat().st_size for path in found) == info.unpacked_bytes
            assert inspect(root / "archive", SMALL) == info
        assert {path.name for path in root.iterdir()} <= {"archive", "deep"}
        assert {path.name for path in (root / "deep").iterdir()} <= {"out"}


RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.one_of(
    st.sampled_from(
        ["main.tf", "a/b.tf", "../x", "/x", "./", "a/", "a//b", "..", ".", "a/../b", "C:x", "a\\b", "\udc80"]
    ),
    st.text(alphabet="ab./\\:\0é\u202e", max_size=20),
)


@RELAXED
@given(st.sampled_from([b"", b"\x1f\x8b\x08\0", b"PK\x03\x04", b"PK\x05\x06"]), st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused(magic: bytes, content: bytes) -> None:
    check_whatever_it_is(magic + content)


@RELAXED
@given(st.binary(max_size=3000))
def test_arbitrary_bytes_inside_gzip_are_refused(content: bytes) -> None:
    check_whatever_it_is(gzip.compress(content, 1))


@RELAXED
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1), st.binary(max_size=600), st.integers(-2000, 2000)), max_size=6),
    st.integers(0, 1),
)
def test_odd_tars_are_refused_or_stay_inside(entries: list[tuple[str, bytes, bytes, int]], lie: int) -> None:
    blocks = [header("main.tf")]
    for name, kind, data, off in entries:
        blocks += [header(name, max(-1, len(data) + lie * off), kind or b"0"), padded(data)]
    check_whatever_it_is(gzip.compress(b"".join(blocks), 1))


@RELAXED
@given(st.lists(st.tuples(NAMES, st.sampled_from([0, 0o100644, 0o120777, 0o040755, 0o010644])), max_size=6))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_zips_are_refused_or_stay_inside(entries: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        members: list[tuple[zipfile.ZipInfo | str, bytes]] = [MAIN]
        members += [(zip_member(name.replace("\udc80", "?"), mode), b"x") for name, mode in entries]
        content = zip_of(Path(folder) / "a", members).read_bytes()
    check_whatever_it_is(content)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("valid")
    files = [MAIN, ("modules/a/main.tf", b"x" * 700), ("é" * 60 + ".txt", b"y")]
    plain_tar = gzip.decompress(tar_gz(folder / "a", files, format=tarfile.PAX_FORMAT).read_bytes())
    return [plain_tar, (folder / "a").read_bytes(), zip_of(folder / "b", files).read_bytes()]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated_archives_are_refused_or_stay_inside(
    valid: list[bytes], which: int, changes: list[tuple[float, int]]
) -> None:
    content = bytearray(valid[which])
    for position, value in changes:
        content[min(int(position * len(content)), len(content) - 1)] = value
    check_whatever_it_is(gzip.compress(bytes(content), 1) if which == 0 else bytes(content))
