"""Where the tests look for a provider mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.mirror import SETTING, MirrorMissing, candidates, provider_mirror, write_cli_config
from tests.support import mirror


def test_the_setting_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, str(tmp_path))
    with pytest.raises(MirrorMissing, match=SETTING):
        provider_mirror()
    (tmp_path / "registry.terraform.io" / "hashicorp" / "aws").mkdir(parents=True)
    assert provider_mirror() == tmp_path


def test_terraforms_own_folders_come_before_opt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_DIRS", "/usr/share")
    implied = [".terraform.d/plugins", ".local/share/terraform/plugins"]
    expected = [*(tmp_path / name for name in implied), Path("/usr/share/terraform/plugins")]
    assert candidates()[:3] == expected


def test_the_cli_configuration_quotes_the_folder(tmp_path: Path) -> None:
    written = write_cli_config(tmp_path / "rc", Path('/a "b"')).read_text()
    assert 'path    = "/a \\"b\\""' in written


def test_a_test_without_a_mirror_fails_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, str(tmp_path))
    with pytest.raises(pytest.fail.Exception) as caught:
        mirror.provider_mirror()
    said = str(caught.value)
    assert said.startswith(f"No provider mirror with hashicorp/aws in {tmp_path}. ") and SETTING in said
    assert "\n" not in said and not caught.value.pytrace
