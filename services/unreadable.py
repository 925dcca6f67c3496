"""Which stored values the keys of this installation do not open."""

from __future__ import annotations

from flask import current_app

from models import Variable
from services.storage.vault import Vault, VaultError


def cannot_be_read(variable: Variable) -> bool:
    """Whether its value was encrypted with a key that is gone, or was altered. Nothing of the value leaves here."""
    vault: Vault = current_app.config["LOCKSTEP"].vault
    try:
        vault.decrypt(variable.value, variable.context)
    except VaultError:
        return True
    return False
