"""The sample organization of `make demo`: two people, a team, an environment for each MFA level, keys of the stand-in.

Runs once on an empty database; a second start finds everything there. The passwords are made here and kept in
`demo.json` in the data folder, mode 0600, so that the launcher can print them again.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import sys
import tarfile
from pathlib import Path

from app import create_app
from config import Config
from demo.aws.identities import Store
from models import Category, Environment, Membership, Organization, User
from policy.mfa import MfaLevel
from policy.permissions import Access, Role
from services import accounts, configurations, environments, grants, organizations, setup, teams, variables
from services.variables import Place

ORGANIZATION = "acme"
CONFIGURATIONS = Path(__file__).parent / "configurations"

#: name, description, level, folder below configurations/
ENVIRONMENTS = (
    ("hello", "Only terraform_data: nothing in AWS", MfaLevel.NEVER, "hello"),
    ("hello-mfa", "The same, with a code for each plan and apply", MfaLevel.PLANS_AND_APPLIES, "hello"),
    (
        "assets",
        "A bucket; the role is assumed while applying",
        MfaLevel.APPLIES_ONLY,
        "bucket-assume-role-applies-only",
    ),
    (
        "production",
        "A bucket through a role that asks for MFA",
        MfaLevel.PLANS_AND_APPLIES,
        "bucket-assume-role",
    ),
)


def seed(config: Config, state: Path) -> None:
    """Make the sample in the present application; ``state`` is the stand-in's folder. Nothing on a filled database."""
    if not setup.is_empty():
        return
    passwords = {name: secrets.token_urlsafe(12) for name in ("alice", "bob")}
    alice = accounts.create_user("alice", "alice@acme.example", passwords["alice"])
    bob = accounts.create_user("bob", "bob@acme.example", passwords["bob"])
    acme = organizations.create_organization(ORGANIZATION, alice)
    organizations.add_member(acme, bob, Role.MEMBER)
    owner, member = (organizations.membership(user, ORGANIZATION) for user in (alice, bob))
    aws = Store(state, lambda: 0.0)
    _shared(owner, acme)
    for membership in (owner, member):
        _keys(membership, acme, membership.user, aws)
    team = teams.create(owner, "platform")
    teams.add(owner, team, bob.name)
    for name, description, level, folder in ENVIRONMENTS:
        environment = environments.create_environment(owner, name, description)
        wanted = environments.Settings(level, environment.session_seconds, description, "")
        environments.save_settings(owner, environment, wanted)
        if folder != "hello":
            _bucket(owner, acme, environment, aws)
        archive = _archive(CONFIGURATIONS / folder)
        configurations.upload(owner, environment, archive, f"{folder}.tar.gz", f"The sample configuration {folder}")
        grants.give(owner, environment, Access.WRITE, team=team.name)
    _write(config.home / "demo.json", passwords)


def _shared(owner: Membership, acme: Organization) -> None:
    variables.save(owner, Place(acme), category=Category.ENV, name="AWS_REGION", value="eu-west-1", sensitive=False)


def _keys(membership: Membership, acme: Organization, user: User, aws: Store) -> None:
    """Each person's own keys and device, as personal variables."""
    identity = aws.users[user.name]
    for name, value, sensitive in (
        ("AWS_ACCESS_KEY_ID", identity.access_key_id, False),
        ("AWS_SECRET_ACCESS_KEY", identity.secret_access_key, True),
        ("AWS_MFA_SERIAL_NUMBER", identity.mfa_serial, False),
    ):
        place = Place(acme, None, user)
        variables.save(membership, place, category=Category.ENV, name=name, value=value, sensitive=sensitive)


def _bucket(owner: Membership, acme: Organization, environment: Environment, aws: Store) -> None:
    role = next(iter(aws.roles.values()))
    for name, value in (("bucket_name", f"acme-{environment.name}"), ("role_arn", role.arn)):
        place = Place(acme, environment)
        variables.save(owner, place, category=Category.TERRAFORM, name=name, value=value, sensitive=False)


def _archive(folder: Path) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, arcname=path.relative_to(folder), recursive=False)
    packed.seek(0)
    return packed


def _write(path: Path, passwords: dict[str, str]) -> None:
    """What the launcher prints: who can sign in, and what there is to see."""
    roles = {"alice": Role.OWNER, "bob": Role.MEMBER}
    sample = {
        "users": [{"name": name, "role": roles[name].value, "password": word} for name, word in passwords.items()],
        "environments": [
            {"name": name, "about": f"{level.value}: {description}"} for name, description, level, _ in ENVIRONMENTS
        ],
    }
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(sample, file)


def main() -> int:
    """`python -m demo.sample`, with the settings of the demo in the environment."""
    app = create_app()
    config = app.config["LOCKSTEP"]
    with app.app_context():
        seed(config, config.home / "aws")
    return 0


if __name__ == "__main__":
    sys.exit(main())
