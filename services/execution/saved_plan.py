"""Whether a saved plan is all there: terraform says nothing when the disk is full while it writes one (1.11.4)."""

from __future__ import annotations

import io
import json
import zipfile
import zlib


def whole_plan(plan: bytes) -> bool:
    """Whether the file is complete: a ZIP archive, or the JSON object that OpenTofu makes of one that it encrypts."""
    try:
        if plan.startswith(b"{"):
            return isinstance(json.loads(plan), dict)
        with zipfile.ZipFile(io.BytesIO(plan)) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, ValueError, EOFError, zlib.error):
        return False
