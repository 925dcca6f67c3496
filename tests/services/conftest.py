"""What the tests of this folder start from."""

from __future__ import annotations

from tests.support.gate_fixtures import application, aws, here, one_aws

__all__ = ["application", "aws", "here", "one_aws"]
