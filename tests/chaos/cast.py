"""People with AWS keys and devices, and the environments (`python -m tests.chaos.cast HOME/aws COUNT`, in Lockstep)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from app import create_app
from demo.aws.identities import Store
from models import Category
from policy.mfa import MfaLevel
from policy.permissions import Role
from services import accounts, environments, organizations, variables
from services.variables import Place
from tests.browser.cast import PASSWORD, PEOPLE

ORGANIZATION = "chaos"
LEVELS = (MfaLevel.NEVER, MfaLevel.APPLIES_ONLY, MfaLevel.PLANS_AND_APPLIES)


def names(count: int) -> list[str]:
    """The environments; their levels take turns."""
    return [f"env-{number}" for number in range(1, count + 1)]


def make(identities: Path, count: int) -> None:
    """All are owners, so that each may force a run and give up on a worker."""
    store = Store(identities, time.time)
    founder = accounts.create_user(PEOPLE[0], f"{PEOPLE[0]}@example.org", PASSWORD)
    organization = organizations.create_organization(ORGANIZATION, founder)
    owner = organizations.membership(founder, ORGANIZATION)
    memberships = [owner]
    for name in PEOPLE[1:]:
        user = accounts.create_user(name, f"{name}@example.org", PASSWORD)
        memberships.append(organizations.add_member(organization, user, Role.OWNER))
    for membership, name in zip(memberships, PEOPLE, strict=True):
        identity = store.users[name]
        for variable, value in (
            ("AWS_ACCESS_KEY_ID", identity.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", identity.secret_access_key),
            ("AWS_MFA_SERIAL_NUMBER", identity.mfa_serial),
            ("AWS_REGION", "eu-west-1"),
        ):
            place = Place(organization, None, membership.user)
            hidden = variable == "AWS_SECRET_ACCESS_KEY"
            variables.save(membership, place, category=Category.ENV, name=variable, value=value, sensitive=hidden)
    for number, name in enumerate(names(count)):
        environment = environments.create_environment(owner, name)
        level = LEVELS[number % len(LEVELS)]
        environments.save_settings(owner, environment, environments.Settings(level, 3600, "", ""))


def main() -> int:
    """With the settings of the chaos in the environment."""
    with create_app().app_context():
        make(Path(sys.argv[1]), int(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
