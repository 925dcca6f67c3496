"""Who may do what. A stranger to an organization is told nothing: loading answers 404 before these rules are asked."""

from __future__ import annotations

from enum import Enum, StrEnum


class Role(StrEnum):
    """A person's part in an organization."""

    OWNER = "owner"
    MEMBER = "member"


class Access(StrEnum):
    """What a member may do in one environment; each includes the ones before. Owners have all of it everywhere."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Permission(Enum):
    """One thing that a person may do."""

    READ = "read"
    """See environments, runs, logs, states and the names of variables."""
    WRITE = "write"
    """Queue, authenticate, confirm, discard and cancel runs; upload configurations; edit an environment's variables."""
    LOCK = "lock"
    """Lock and unlock an environment by hand."""
    WRITE_STATE = "write state"
    """Lock and write an environment's state from a terminal."""
    REPLACE_STATE = "replace state"
    """Roll a state back, upload one, accept another lineage, take off the lock that somebody's terminal holds."""
    FORCE = "force"
    """End a running terraform the hard way, and give up on a worker that is gone for good."""
    CREATE_ENVIRONMENT = "create environment"
    """Make a new environment."""
    EDIT_SETTINGS = "edit settings"
    """Change an environment's directory and description."""
    SET_MFA_LEVEL = "set MFA level"
    """Change "AWS Multi-Factor Authentication" and the session length: the organization owner's alone."""
    EDIT_SHARED_VARIABLES = "edit shared variables"
    """Change the variables that the organization shares."""


_MEMBER = frozenset({Permission.READ, Permission.WRITE, Permission.LOCK, Permission.WRITE_STATE})

PERMISSIONS: dict[Role, frozenset[Permission]] = {Role.OWNER: frozenset(Permission), Role.MEMBER: _MEMBER}


def allows(role: Role, permission: Permission) -> bool:
    """Whether ``role`` may do ``permission``."""
    return permission in PERMISSIONS[role]
