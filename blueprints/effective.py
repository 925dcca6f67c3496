"""The values that a run of a person would have, for pages that must be shown even when a value does not open."""

from __future__ import annotations

from models import Environment, Organization, User
from services import variables
from services.storage.vault import VaultError
from services.variables import Resolved


def values(person: User, organization: Organization, environment: Environment | None = None) -> Resolved | None:
    """As :func:`services.variables.resolve`; None when one of them cannot be read with the present keys."""
    try:
        return variables.resolve(person, organization, environment)
    except VaultError:
        return None
