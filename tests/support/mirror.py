"""The provider mirror for tests with the real AWS provider: found as the demo finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo import mirror
from demo.mirror import write_cli_config

__all__ = ["provider_mirror", "write_cli_config"]


def provider_mirror() -> Path:
    """The mirror; without one the test fails with one line that says what to do."""
    try:
        return mirror.provider_mirror()
    except mirror.MirrorMissing as missing:
        pytest.fail(str(missing), pytrace=False)
