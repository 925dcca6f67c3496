"""The provider mirror for tests with the real AWS provider: found as the demo finds it."""

from __future__ import annotations

from demo.mirror import SETTING, MirrorMissing, candidates, provider_mirror, write_cli_config

__all__ = ["SETTING", "MirrorMissing", "candidates", "provider_mirror", "write_cli_config"]
