"""Asking the permission table in services."""

from __future__ import annotations

from models import Membership
from policy.permissions import Permission
from services.errors import Forbidden


def require(membership: Membership, permission: Permission, sentence: str) -> None:
    """Raise :class:`Forbidden` with the sentence unless the member has the permission."""
    if not membership.may(permission):
        raise Forbidden(sentence)
