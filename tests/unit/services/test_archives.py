"""What an uploaded archive may hold, and what comes out of it."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from services.archives import ArchiveInfo, ArchiveRefused, Limits, extract, inspect
from tests.unit.services.archive_makers import (
    MAIN,
    header,
    member,
    padded,
    pax,
    raw_tar_gz,
    tar_gz,
    zip_member,
    zip_of,
)

LIMITS = Limits()
SMALL = Limits(packed_bytes=200_000, unpacked_bytes=100_000, files=20)
Maker = Callable[[Path, list[tuple[str, bytes]]], Path]
BOTH = pytest.mark.parametrize("make", [tar_gz, zip_of], ids=["tar.gz", "zip"])


def reason(path: Path, limits: Limits = LIMITS) -> str:
    """Why both readings refuse the archive; neither leaves anything behind."""
    with pytest.raises(ArchiveRefused) as inspected:
        inspect(path, limits)
    destination = path.parent / "unpacked"
    with pytest.raises(ArchiveRefused) as extracted:
        extract(path, destination, limits)
    assert not destination.exists()
    assert inspected.value.reason == extracted.value.reason == str(extracted.value)
    return extracted.value.reason


@BOTH
def test_files_come_out_as_they_were(tmp_path: Path, make: Maker) -> None:
    files = [
        ("./README.md", b"hello\n"),
        ("live/network/main.tf", b"# n\n"),
        ("live/network/x.tf.json", b"{}"),
        ("main.tf", b""),
        ("Main.tf", b"other case"),
        ("modules/ü/日本.tf", b"\0\xff" * 50_000),
        ("docs/.hidden.tf", b""),
    ]
    path, out = make(tmp_path / "a", files), tmp_path / "out"
    info = extract(path, out, LIMITS)
    assert info == inspect(path, LIMITS)
    assert info == ArchiveInfo(
        "tar.gz" if make is tar_gz else "zip",
        len(files),
        sum(len(data) for _, data in files),
        ("", "live/network", "modules/ü"),
    )
    for name, data in files:
        assert (out / name).read_bytes() == data
        assert stat.S_IMODE((out / name).stat().st_mode) == 0o600
    assert sum(path.is_file() for path in out.rglob("*")) == len(files)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in [out, *out.rglob("*")] if path.is_dir())


def test_the_executable_bit_is_kept_and_no_other(tmp_path: Path) -> None:
    script = tarfile.TarInfo("run.sh")
    script.mode = 0o6777
    extract(tar_gz(tmp_path / "a", [MAIN, (script, b"#!/bin/sh\n")]), tmp_path / "t", LIMITS)
    extract(zip_of(tmp_path / "b", [MAIN, (zip_member("run.sh", 0o106755), b"x")]), tmp_path / "z", LIMITS)
    for out in ("t", "z"):
        assert stat.S_IMODE((tmp_path / out / "run.sh").stat().st_mode) == 0o700


@BOTH
def test_what_terraform_left_behind_is_passed_over(tmp_path: Path, make: Maker) -> None:
    path = make(
        tmp_path / "a",
        [
            MAIN,
            (".terraform/modules/modules.json", b"{}"),
            ("live/.terraform/providers/main.tf", b""),
            ("terraform.tfstate", b"{}"),
            ("live/terraform.tfstate.backup", b"{}"),
            ("terraform.tfstate.d/prod/terraform.tfstate", b"{}"),
            ("live/.terraform.tfstate.lock.info", b"{}"),
            ("live/errored.tfstate", b"{}"),
            (".terraform.lock.hcl", b"# kept\n"),
        ],
    )
    info = extract(path, tmp_path / "out", LIMITS)
    assert (info.files, info.terraform_directories) == (2, ("",))
    assert sorted(found.name for found in (tmp_path / "out").rglob("*")) == [".terraform.lock.hcl", "main.tf"]


def test_a_provider_link_below_dot_terraform_does_no_harm(tmp_path: Path) -> None:
    link = member(tarfile.SYMTYPE, ".terraform/providers/aws", "/usr/share")
    assert inspect(tar_gz(tmp_path / "a", [MAIN, (link, b"")]), LIMITS).files == 1


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read(tmp_path: Path, form: int) -> None:
    deep = "/".join(["d" * 40] * (5 if form == tarfile.USTAR_FORMAT else 8)) + "/main.tf"
    path = tar_gz(tmp_path / "a", [(member(tarfile.DIRTYPE, "./"), b""), (deep, b"x")], format=form)
    extract(path, tmp_path / "out", LIMITS)
    assert (tmp_path / "out" / deep).read_bytes() == b"x"


def test_a_git_archive_with_its_global_header_is_read(tmp_path: Path) -> None:
    path = tar_gz(tmp_path / "a", [MAIN])
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "4f0c" * 10}) as tar:
        tar.addfile(tarfile.TarInfo("repo-1/main.tf"))
    assert inspect(path, LIMITS).terraform_directories == ("repo-1",)


NAMES = [
    ("/etc/main.tf", "an absolute path (/etc/main.tf)"),
    ("C:/main.tf", "an absolute path (C:/main.tf)"),
    ("../main.tf", "a path with .. (../main.tf)"),
    ("a/../../main.tf", "a path with .. (a/../../main.tf)"),
    ("a/..", "a path with .. (a/..)"),
    ("a\\main.tf", "a backslash in a name (a\\main.tf)"),
    ("..\\main.tf", "a backslash in a name"),
    ("a\nb.tf", "control characters in a name (a\ufffdb.tf)"),
    ("a\u202efdp.tf", "control characters in a name"),
    ("x" * 256, "a name that is too long"),
    ("x/" * 600 + "main.tf", "a name that is too long"),
    (".terraform/../../x", "a path with .. "),
]


@BOTH
@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_names_that_could_lead_elsewhere_are_refused(tmp_path: Path, make: Maker, name: str, expected: str) -> None:
    assert reason(make(tmp_path / "a", [MAIN, (name, b"x")])).startswith(f"The archive contains {expected}")


def test_a_nul_in_a_name_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", [MAIN, ("ab0/evil.tf", b"x")])
    path.write_bytes(path.read_bytes().replace(b"ab0/evil.tf", b"ab\0/evil.tf"))
    assert "control characters in a name" in reason(path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = raw_tar_gz(tmp_path / "a", header("m\udcffin.tf"))
    assert reason(path) == "The archive contains a name that is not UTF-8 (m\ufffdin.tf)."


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar_gz(tmp_path / "a", [MAIN, (member(kind, "modules/x", "main.tf"), b"")])
    assert reason(path) == "The archive contains a link (modules/x). Links are refused; add the file itself."


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", [MAIN, (zip_member("modules/x", 0o120777), b"../..")])
    assert reason(path) == "The archive contains a link (modules/x). Links are refused; add the file itself."


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V", b"D", b"Z"])
def test_devices_pipes_and_unknown_kinds_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = raw_tar_gz(tmp_path / "a", header("main.tf"), header("odd", kind=kind))
    expected = "The archive contains something that is neither a file nor a directory (odd)."
    assert reason(path) == f"{expected} Only files and directories are taken."


@pytest.mark.parametrize("mode", [0o010644, 0o020644, 0o060644, 0o140644])
def test_devices_and_pipes_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    assert "neither a file nor a directory (odd)" in reason(
        zip_of(tmp_path / "a", [MAIN, (zip_member("odd", mode), b"")])
    )


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    old = raw_tar_gz(tmp_path / "a", header("main.tf"), header("big", kind=tarfile.GNUTYPE_SPARSE))
    assert reason(old) == "The archive contains a sparse file (big). Make the archive again without sparse files."
    new = raw_tar_gz(tmp_path / "b", pax(b"22 GNU.sparse.major=1\n"), header("big.tf"))
    assert reason(new).startswith("The archive contains a sparse file")


@BOTH
@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        (["main.tf", "main.tf"], "main.tf"),
        (["main.tf", "./main.tf"], "main.tf"),
        (["a/main.tf", "a//main.tf"], "a/main.tf"),
        (["x.tf", "x.tf/main.tf"], "x.tf"),
        (["x.tf/main.tf", "x.tf"], "x.tf"),
        (["x.tf/y/main.tf", "x.tf"], "x.tf"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_may_come_once(tmp_path: Path, make: Maker, names: list[str], culprit: str) -> None:
    path = make(tmp_path / "a", [(name, b"x") for name in names])
    assert reason(path) == f"The archive contains {culprit} more than once."


def test_a_directory_may_come_twice_but_not_over_a_file(tmp_path: Path) -> None:
    folder = (member(tarfile.DIRTYPE, "a"), b"")
    assert inspect(tar_gz(tmp_path / "a", [folder, ("a/main.tf", b""), folder]), LIMITS).files == 1
    path = tar_gz(tmp_path / "b", [MAIN, (member(tarfile.DIRTYPE, "main.tf"), b"")])
    assert reason(path) == "The archive contains main.tf more than once."


@BOTH
def test_an_archive_without_terraform_files_is_refused(tmp_path: Path, make: Maker) -> None:
    path = make(tmp_path / "a", [("README.md", b""), (".terraform/main.tf", b""), ("._main.tf", b""), (".a.tofu", b"")])
    assert reason(path) == "The archive contains no Terraform files (*.tf, *.tofu, *.tf.json or *.tofu.json)."


@BOTH
@pytest.mark.parametrize("name", ["main.tofu", "main.tofu.json"])
def test_a_configuration_for_opentofu_alone(tmp_path: Path, make: Maker, name: str) -> None:
    info = inspect(make(tmp_path / "a", [(f"live/{name}", b"")]), LIMITS)
    assert info.terraform_directories == ("live",)


@BOTH
def test_limits_are_on_what_really_comes_out(tmp_path: Path, make: Maker) -> None:
    assert inspect(make(tmp_path / "a", [("main.tf", bytes(100_000))]), SMALL).unpacked_bytes == 100_000
    large = make(tmp_path / "b", [("main.tf", bytes(50_000)), ("b", bytes(50_001))])
    assert reason(large, SMALL).startswith("The archive unpacks to more than 100,000 bytes. Leave out")
    many = make(tmp_path / "c", [(f"{n}.tf", b"") for n in range(21)])
    assert reason(many, SMALL).startswith("The archive has more than 20 entries.")
    packed = tmp_path / "d"
    packed.write_bytes(bytes(200_001))
    assert reason(packed, SMALL) == "The archive is larger than 200,000 bytes."


def test_an_encrypted_zip_and_other_compressions_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", [MAIN])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert reason(path) == "The archive is encrypted. Upload it without a password."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("main.tf", b"x")
    assert "in a way other than deflate" in reason(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "The file is empty."),
        (b"resource {}", "The file is neither a .tar.gz nor a .zip archive."),
        (b"BZh91AY", "The file is neither a .tar.gz nor a .zip archive."),
        (b"\x1f\x8bgarbage", "The archive is damaged or cut short. Make it again and upload it once more."),
        (b"PK\x03\x04garbage", "The archive is damaged or cut short. Make it again and upload it once more."),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert reason(path) == expected


def test_a_full_destination_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        extract(tar_gz(tmp_path / "a", [MAIN]), tmp_path / "out", LIMITS)
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_an_empty_destination_that_was_there_stays_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path = raw_tar_gz(tmp_path / "a", header("a/b/main.tf", 3), padded(b"abc"), header("../x"))
    with pytest.raises(ArchiveRefused):
        extract(path, tmp_path / "out", LIMITS)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_file_is_an_error_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "nothing", LIMITS)
