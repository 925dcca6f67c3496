"""Where a configuration keeps its state, as read from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.execution import hcl
from services.execution.backend_blocks import (
    ephemeral_variables,
    has_own_backend,
    is_configuration,
    own_backend,
)

NATIVE = [
    ('terraform {\n  backend "s3" {\n    bucket = "b"\n  }\n}\n', "s3"),
    ("terraform {\r\n  backend s3 {}\r\n}\r\n", "s3"),
    ("\ufeffterraform {\n  cloud {\n  }\n}\n", "cloud"),
    ('terraform{ backend "http" {} }', "http"),
    ('terraform { # why\n /* not */ backend /* here */ "gcs" {\n}\n}', "gcs"),
    ('terraform {\n required_version = ">= 1"\n}\nterraform {\n backend "s3" {}\n}', "s3"),
    ('terraform {\n  backend "local" {\n    path = "x"\n  }\n}', "local"),
    ('locals {\n a = "${"}" == "}" ? "{" : "}"}"\n}\nterraform {\n backend "s3" {}\n}', "s3"),
    ('locals {\n a = "\\"{ $${ %%{ {"\n}\nterraform {\n backend "s3" {}\n}', "s3"),
    ('locals {\n  a = <<-EOT\n    "unbalanced {\n    EOT\n}\nterraform {\n  backend "s3" {}\n}', "s3"),
    ("", None),
    ('terraform {\n  required_providers {\n    cloud = { source = "a/cloud" }\n  }\n}', None),
    ('# terraform {\n#  backend "s3" {}\n# }\n', None),
    ('// terraform { backend "s3" {} }\n', None),
    ('/*\nterraform {\n  backend "s3" {\n  }\n}\n*/\n', None),
    ('terraform {\n  # backend "s3" {}\n  /* cloud {} */\n}', None),
    ('locals {\n  a = <<EOT\nterraform {\n  backend "s3" {\n  }\n}\nEOT\n}\n', None),
    ('locals {\n  a = <<-EOT\n  EOT.\n  terraform {\n  backend "s3" {\n  }\n}\n  EOT\n}\n', None),
    ('locals {\n  a = "terraform { backend \\"s3\\" {} }"\n}\n', None),
    ('resource "x" "y" {\n  terraform {\n    backend "s3" {}\n  }\n}\n', None),
    ('resource "x" terraform {\n  cloud {}\n}\n', None),
    ("provider terraform {\n  cloud {}\n}\n", None),
    ("locals {\n  terraform = {\n    backend = 1\n    cloud = {}\n  }\n}\n", None),
    ("terraform {\n  experiments = [cloud]\n  x = {\n cloud {\n}\n}\n}\n", None),
    ('terraform {\n  provider_meta "cloud" {}\n  backend = "s3"\n}\n', None),
    ('x = "never closed\n terraform {\n backend "s3" {}\n}', None),
]

JSON = [
    ('{"terraform": {"backend": {"s3": {"bucket": "b"}}}}', "s3"),
    ('{"terraform": [{"required_version": "1"}, {"backend": [{"gcs": {}}]}]}', "gcs"),
    ('{"terraform": {"cloud": {"organization": "o"}}}', "cloud"),
    ('{"terraform": {"cloud": [{}]}}', "cloud"),
    ('{"terraform": {"backend": {"s3": {}}}, "terraform": {"required_version": "1"}}', "s3"),
    ('{"//": "terraform", "terraform": {"required_providers": {"cloud": {}}}}', None),
    ('{"locals": {"terraform": {"backend": {"s3": {}}}}}', None),
    ('{"terraform": {"cloud": null}}', None),
    ('["terraform"', None),
    ("[" * 100_000, None),
]


@pytest.mark.parametrize(("text", "expected"), NATIVE)
def test_native_syntax(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "versions.tf").write_text(text, newline="")
    assert own_backend(tmp_path, tofu=False) == expected
    assert has_own_backend(tmp_path, tofu=False) is (expected not in (None, "local"))


@pytest.mark.parametrize(("text", "expected"), JSON)
def test_json_syntax(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "versions.tf.json").write_text(text)
    assert own_backend(tmp_path, tofu=False) == expected


def test_only_the_files_terraform_reads_count(tmp_path: Path) -> None:
    block = 'terraform {\n  backend "s3" {}\n}\n'
    (tmp_path / "module").mkdir()
    (tmp_path / "folder.tf").mkdir()
    for name in ("module/main.tf", ".hidden.tf", "notes.txt", "main.tf.bak"):
        (tmp_path / name).write_text(block)
    (tmp_path / "binary.tf").write_bytes(b"\xff\xfe\x00")
    assert own_backend(tmp_path, tofu=False) is None
    (tmp_path / "backend_override.tf").write_text(block)
    assert own_backend(tmp_path, tofu=False) == "s3"


@pytest.mark.parametrize(
    ("overriding", "expected"),
    [
        ({"backend_override.tf": "local"}, "local"),
        ({"override.tf": "gcs"}, "gcs"),
        ({"a_override.tf": "gcs", "z_override.tf": "http"}, "http"),
        ({"override.tf.json": "gcs"}, "gcs"),
        ({"overrides.tf": "gcs"}, "s3"),
    ],
)
def test_the_last_override_file_with_a_block_counts(tmp_path: Path, overriding: dict[str, str], expected: str) -> None:
    for name, kind in ({"main.tf": "s3"} | overriding).items():
        block = f'terraform {{\n  backend "{kind}" {{}}\n}}\n'
        (tmp_path / name).write_text(json.dumps({"terraform": {"backend": {kind: {}}}}) if "json" in name else block)
    (tmp_path / "other_override.tf").write_text("locals {}\n")
    assert own_backend(tmp_path, tofu=False) == expected


@pytest.mark.parametrize(
    ("name", "for_terraform", "for_tofu"),
    [
        ("main.tf", True, True),
        ("main.tf.json", True, True),
        ("main.tofu", False, True),
        ("override.tf", False, False),
        ("backend_override.tf.json", False, False),
        (".hidden.tf", False, False),
        ("main.tf.bak", False, False),
        ("module/main.tf", False, False),
    ],
)
def test_what_makes_a_folder_a_configuration(tmp_path: Path, name: str, for_terraform: bool, for_tofu: bool) -> None:
    (tmp_path / "module").mkdir()
    (tmp_path / name).write_text("")
    assert is_configuration(tmp_path, tofu=False) is for_terraform
    assert is_configuration(tmp_path, tofu=True) is for_tofu


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("main.tofu", 'terraform {\n  backend "s3" {}\n}\n'),
        ("main.tofu.json", '{"terraform": {"backend": {"s3": {}}}}'),
    ],
)
def test_the_files_only_opentofu_reads_count_for_it_alone(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert own_backend(tmp_path, tofu=True) == "s3"
    assert own_backend(tmp_path, tofu=False) is None


def test_what_terraform_passes_over_decides_nothing_for_it(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('terraform {\n  backend "s3" {}\n}\n')
    (tmp_path / "override.tofu").write_text('terraform {\n  backend "local" {}\n}\n')
    assert own_backend(tmp_path, tofu=False) == "s3"
    assert own_backend(tmp_path, tofu=True) == "local"


def test_opentofu_reads_its_file_in_place_of_terraforms(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('terraform {\n  backend "s3" {}\n}\n')
    (tmp_path / "main.tofu").write_text("locals {}\n")
    assert own_backend(tmp_path, tofu=True) is None


def test_ephemeral_variables(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(
        'variable "a" {\n  type = string\n  ephemeral = true\n}\nvariable "b" {\n  ephemeral = false\n}\n'
        'variable "c" {\n  default = { ephemeral = true }\n}\nvariable d { ephemeral = true }\n'
        'variable "e" {\n  # ephemeral = true\n}\n'
    )
    (tmp_path / "more.tf.json").write_text('{"variable": {"f": {"ephemeral": true}, "g": {"default": "x"}}}')
    assert ephemeral_variables(tmp_path, tofu=False) == {"a", "d", "f"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('["a", "b"]', True),
        ('{ a = "}" }', True),
        ("<<EOT\n) }\nEOT", True),
        ("1 # )", True),
        ('"${"nested ) ${1}"}"', True),
        ("1)\nother = (2", False),
        ("[1, 2", False),
        ("[1)", False),
        ('"open', False),
        ("/* open", False),
        ("<<EOT\nopen", False),
        ("}", False),
    ],
)
def test_one_expression(value: str, expected: bool) -> None:
    assert hcl.is_one_expression(value) is expected
