"""Who may do what: the whole truth. A stranger is told nothing: loading answers 404 before these rules are asked.

An owner may do everything everywhere in the organization. A member may do what needs no environment, and in an
environment what their access to it includes: the highest that was granted to them or to a team of theirs.
"""

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

    @property
    def rank(self) -> int:
        """1 for read to 3 for admin; in a database 0 stands for no access at all."""
        return list(Access).index(self) + 1

    def includes(self, other: Access) -> bool:
        """Whether this is ``other`` or more."""
        return self.rank >= other.rank


class Permission(Enum):
    """One thing that a person may do."""

    SEE_ORGANIZATION = "see organization"
    """See who belongs to the organization, its teams, and the variables that it shares."""
    CREATE_ENVIRONMENT = "create environment"
    """Make a new environment."""
    EDIT_SHARED_VARIABLES = "edit shared variables"
    """Change the variables that the organization shares."""
    MANAGE_MEMBERS = "manage members"
    """Change roles, remove members, and let people in."""
    MANAGE_TEAMS = "manage teams"
    """Make, rename and delete teams, and say who is in them."""
    SEE_AUDIT = "see audit"
    """See and export what everybody did in the organization, and the sign-ins of its members."""
    SET_MFA_LEVEL = "set MFA level"
    """Change "AWS Multi-Factor Authentication" and the session length: the organization owner's alone."""

    READ = "read"
    """See an environment, its runs, logs, plans and settings, the names of its variables, and which states there are
    and how they differ, with what is sensitive masked."""
    WRITE = "write"
    """Queue, authenticate, confirm, discard and cancel runs; upload configurations; see and edit the environment's
    variables."""
    READ_STATE = "read state"
    """Have a state whole: it holds secrets in clear."""
    WRITE_STATE = "write state"
    """Lock and write an environment's state from a terminal."""
    LOCK = "lock"
    """Lock and unlock an environment by hand."""
    EDIT_SETTINGS = "edit settings"
    """Change an environment's directory and description."""
    REPLACE_STATE = "replace state"
    """Roll a state back, upload one, accept another lineage, take off the lock that somebody's terminal holds."""
    FORCE = "force"
    """End a running terraform the hard way, and give up on a worker that is gone for good."""
    MANAGE_ACCESS = "manage access"
    """See and change who has access to an environment."""


#: The least that a member needs: their role for what concerns the organization, access for what is in an environment.
NEEDS: dict[Permission, Role | Access] = {
    Permission.SEE_ORGANIZATION: Role.MEMBER,
    Permission.CREATE_ENVIRONMENT: Role.OWNER,
    Permission.EDIT_SHARED_VARIABLES: Role.OWNER,
    Permission.MANAGE_MEMBERS: Role.OWNER,
    Permission.MANAGE_TEAMS: Role.OWNER,
    Permission.SEE_AUDIT: Role.OWNER,
    Permission.SET_MFA_LEVEL: Role.OWNER,
    Permission.READ: Access.READ,
    Permission.WRITE: Access.WRITE,
    Permission.READ_STATE: Access.WRITE,
    Permission.WRITE_STATE: Access.WRITE,
    Permission.LOCK: Access.WRITE,
    Permission.EDIT_SETTINGS: Access.ADMIN,
    Permission.REPLACE_STATE: Access.ADMIN,
    Permission.FORCE: Access.ADMIN,
    Permission.MANAGE_ACCESS: Access.ADMIN,
}


def allows(role: Role, access: Access | None, permission: Permission) -> bool:
    """Whether somebody of this role may do ``permission``, with this access to the environment that it is about.

    ``access`` is None for no access, and for what concerns no environment.
    """
    if role is Role.OWNER:
        return True
    least = NEEDS[permission]
    if isinstance(least, Role):
        return least is Role.MEMBER
    return access is not None and access.includes(least)
