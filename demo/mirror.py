"""Finds an unpacked provider mirror on this machine, so that the AWS provider need not be downloaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

SETTING = "LOCKSTEP_PROVIDER_MIRROR"
REGISTRY = "registry.terraform.io"


class MirrorMissing(Exception):
    """No folder with hashicorp/aws was found."""


def candidates() -> list[Path]:
    """The folders looked at, in order.

    The setting alone when it is set; else Terraform's implied mirror folders (its documentation, "CLI
    Configuration", "Implied Local Mirror Directories") and the folders directly below /opt.
    """
    if named := os.environ.get(SETTING):
        return [Path(named)]
    home = Path.home()
    data_home = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    data_dirs = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    implied = [home / ".terraform.d/plugins", data_home / "terraform/plugins"]
    implied += [Path(folder) / "terraform/plugins" for folder in data_dirs if folder]
    return implied + sorted(Path("/opt").glob("*/"))


def provider_mirror() -> Path:
    """The first folder that holds `registry.terraform.io/hashicorp/aws`. Raises MirrorMissing."""
    looked = candidates()
    for folder in looked:
        if (folder / REGISTRY / "hashicorp" / "aws").is_dir():
            return folder
    raise MirrorMissing(
        f"No provider mirror with hashicorp/aws in {', '.join(map(str, looked))}. "
        f"Make one with `terraform providers mirror FOLDER` and name it in {SETTING}."
    )


def write_cli_config(path: Path, mirror: Path) -> Path:
    """Write a CLI configuration that takes every provider from the mirror, and return its path."""
    path.write_text(
        "disable_checkpoint = true\n"
        "provider_installation {\n"
        "  filesystem_mirror {\n"
        f"    path    = {json.dumps(str(mirror))}\n"
        '    include = ["*/*"]\n'
        "  }\n"
        "}\n"
    )
    return path
