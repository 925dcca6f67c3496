"""The program that reads an archive in a process of its own (services/archive_child.py starts it).

It reads what to do from standard input, a JSON array: "inspect" or "extract", the archive, the destination, and four
numbers: bytes packed and unpacked, files, seconds. It limits itself before it opens the archive, and answers with one
JSON object on standard output.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

#: Bytes of address space: Python itself, and what each entry may cost (names of a kilobyte, twice).
_MEMORY, _MEMORY_OF_AN_ENTRY = 512 << 20, 4096
_SLACK = 1 << 20


def limit(unpacked: int, files: int, seconds: int) -> None:
    """Bound memory, processor time and the size of a file; no further processes, no core."""
    most = _MEMORY + files * _MEMORY_OF_AN_ENTRY
    bounds = {
        resource.RLIMIT_AS: most,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: unpacked + _SLACK,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


def answer() -> dict[str, Any]:
    """Read the archive; what came of it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from services import archives  # before there is anything to do: whoever started this may not be ready yet

    action, archive, destination, packed, unpacked, files, seconds = json.load(sys.stdin)
    limit(unpacked, files, seconds)
    limits = archives.Limits(packed, unpacked, files)
    try:
        if action == "extract":
            info = archives.extract(Path(archive), Path(destination), limits)
        else:
            info = archives.inspect(Path(archive), limits)
    except archives.ArchiveRefused as refused:
        return {"refused": refused.reason}
    except OSError as error:
        return {"errno": error.errno, "text": error.strerror}
    return {"kind": info.kind, "files": info.files, "bytes": info.unpacked_bytes, "where": info.terraform_directories}


if __name__ == "__main__":
    json.dump(answer(), sys.stdout)
