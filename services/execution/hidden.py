"""What is secret in the log of one phase, and how a worker that takes the phase over learns it.

The values that a child was given can change while it runs, and its temporary credentials are nowhere else than with
its worker. So they are left, sealed, beside the records of the child, for as long as the working directory is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from config import Config
from services.execution.redact import passwords_in
from services.execution.workdir import Workdir
from services.storage.vault import Vault, VaultError

_FILE = "hidden"
_READ_ENDINGS = (".tf", ".tofu", ".tf.json", ".tofu.json", ".tfvars", ".tfvars.json", ".gitmodules")
#: Bytes of one file of a configuration, and number of files, that are looked through for addresses with a password.
_LARGEST_FILE, _MOST_FILES = 1 << 20, 5_000


def of_installation(config: Config) -> set[str]:
    """Lockstep's own secrets: a configuration that runs without a sandbox can get at them."""
    return {*config.own_secrets, *passwords_in(config.database_url), *passwords_in(config.redis_url)}


def of_values(values: Iterable[str]) -> set[str]:
    """Passwords in addresses (https://user:password@host) in variables of any kind, sensitive or not."""
    return {password for value in values for password in passwords_in(value)}


def of_configuration(folder: Path) -> set[str]:
    """The same in the files of a configuration, above all in the sources of modules."""
    found: set[str] = set()
    paths = (Path(at) / name for at, _, names in os.walk(folder) for name in names if name.endswith(_READ_ENDINGS))
    for _, path in zip(range(_MOST_FILES), paths, strict=False):
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST_FILE:
            found |= passwords_in(path.read_text("utf-8", "replace"))
    return found


def leave(vault: Vault, workdir: Workdir, phase_id: int, secrets: Iterable[str]) -> None:
    """Leave the values for whoever takes the phase over."""
    sealed = vault.encrypt(json.dumps(sorted(set(secrets))).encode(), _context(phase_id))
    path = workdir.control / _FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(sealed)


def found(vault: Vault, workdir: Workdir, phase_id: int) -> set[str] | None:
    """What was left; None when nothing was, or no key opens it."""
    try:
        return set(json.loads(vault.decrypt((workdir.control / _FILE).read_bytes(), _context(phase_id))))
    except (OSError, VaultError):
        return None


def _context(phase_id: int) -> str:
    return f"hidden:phase:{phase_id}"
