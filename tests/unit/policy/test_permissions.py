"""The permission table, cell by cell: whoever changes a rule changes it here too."""

from __future__ import annotations

import inspect
import itertools

import pytest

from policy import permissions
from policy.permissions import NEEDS, Access, Permission, Role, allows

P = Permission

#: What a member may do, by access: None for an environment that they have no access to.
MEMBERS: dict[Access | None, set[Permission]] = {
    None: {P.SEE_ORGANIZATION},
    Access.READ: {P.SEE_ORGANIZATION, P.READ},
    Access.WRITE: {P.SEE_ORGANIZATION, P.READ, P.WRITE, P.READ_STATE, P.WRITE_STATE, P.LOCK},
    Access.ADMIN: {
        P.SEE_ORGANIZATION, P.READ, P.WRITE, P.READ_STATE, P.WRITE_STATE, P.LOCK,
        P.EDIT_SETTINGS, P.REPLACE_STATE, P.FORCE, P.MANAGE_ACCESS,
    },
}  # fmt: skip


@pytest.mark.parametrize(("access", "permission"), list(itertools.product(MEMBERS, Permission)))
def test_a_member(access: Access | None, permission: Permission) -> None:
    assert allows(Role.MEMBER, access, permission) is (permission in MEMBERS[access])


@pytest.mark.parametrize(("access", "permission"), list(itertools.product(MEMBERS, Permission)))
def test_an_owner_may_everything(access: Access | None, permission: Permission) -> None:
    assert allows(Role.OWNER, access, permission)


def test_each_access_includes_the_ones_before() -> None:
    assert [access.rank for access in Access] == [1, 2, 3]
    for lower, higher in itertools.combinations(Access, 2):
        assert higher.includes(lower) and not lower.includes(higher)
        assert MEMBERS[lower] < MEMBERS[higher]


def test_the_gate_is_the_owners_alone() -> None:
    for permission in (P.SET_MFA_LEVEL, P.CREATE_ENVIRONMENT, P.MANAGE_MEMBERS, P.MANAGE_TEAMS):
        assert not any(allows(Role.MEMBER, access, permission) for access in MEMBERS)


def test_every_permission_has_its_rule_and_its_words() -> None:
    assert set(NEEDS) == set(Permission)
    words = inspect.getsource(permissions.Permission).split('"""')[2::2]
    assert len(words) == len(Permission) + 1 and all(text.strip() for text in words[:-1])
