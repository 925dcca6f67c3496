"""Configurations of built-in resources only: no provider is downloaded."""

from __future__ import annotations

import shlex
from pathlib import Path

ONE = 'resource "terraform_data" "one" {\n  input = "hello"\n}\n'
TWO = ONE + 'resource "terraform_data" "two" {\n  input = "world"\n}\n'
BROKEN = 'resource "terraform_data" "one" {\n  input = var.nowhere\n}\n'


def held(gate: Path) -> str:
    """One resource, and one whose creation lasts until the file ``gate`` is there (or a minute)."""
    wait = f"for _ in $(seq 600); do test -e {shlex.quote(str(gate))} && exit 0; sleep 0.1; done; exit 1"
    return f"""
resource "terraform_data" "first" {{
  input = "first"
}}
resource "terraform_data" "second" {{
  depends_on = [terraform_data.first]
  provisioner "local-exec" {{
    command = {hcl(wait)}
  }}
}}
"""


def hcl(text: str) -> str:
    """A string as HCL writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + escaped.replace("${", "$${").replace("%{", "%%{") + '"'
