"""Who and what the browser tests need beside the demo's own sample: people with devices, and environments.

The IAM users are written into the stand-in's folder before `make demo` starts. The rest is made in a process of
its own while Lockstep runs (`python -m tests.browser.cast`), through the same services as the demo's sample. Each
test has people and environments of its own, so that neither codes nor the five failed attempts run out.
"""

from __future__ import annotations

import io
import json
import secrets
import string
import sys
import tarfile
import time
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import select

from app import create_app
from demo.aws import totp
from demo.aws.identities import ACCOUNT, STATE_FILE, Store
from demo.aws.identities import User as Identity
from demo.sample import CONFIGURATIONS
from extensions import db
from models import Category, Membership, User
from policy.mfa import MfaLevel
from policy.permissions import Access, Role
from services import accounts, configurations, environments, grants, organizations, variables
from services.variables import Place

PASSWORD = "a password for tests"

#: Owners and members of acme, each with an IAM user, keys and a device of their own.
PEOPLE = ("carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "karl", "lena")
#: nora owns northwind, where nothing is set yet, and otto is its member; olga owns harbour, which stays empty.
NEWCOMERS = ("nora", "otto", "olga")

NEVER, APPLIES, BOTH = MfaLevel.NEVER, MfaLevel.APPLIES_ONLY, MfaLevel.PLANS_AND_APPLIES

#: Prints a line every 50 ms for six seconds, some of them coloured, some long, some not ASCII.
GROWING = r"""
resource "terraform_data" "growing" {
  provisioner "local-exec" {
    command = <<-EOT
      for n in $(seq 1 120); do
        long=$(head -c $((n * 3)) /dev/zero | tr '\0' x)
        printf 'line %s of the growing log: \033[3%smmäßig\033[0m %s\n' "$n" "$((n % 8))" "$long"
        sleep 0.05
      done
    EOT
  }
}
"""
#: Waits until it is interrupted.
WAITING = """
resource "terraform_data" "first" {
  input = "done before"
}

resource "terraform_data" "waiting" {
  input = terraform_data.first.output
  provisioner "local-exec" {
    command = "echo waiting; exec sleep 900"
  }
}
"""
#: More lines than a page begins with.
LONG = """
resource "terraform_data" "long" {
  provisioner "local-exec" {
    command = "seq -f 'row %g' 1 3000"
  }
}
"""
BROKEN = """
resource "terraform_data" "fine" {}

resource "terraform_data" "broken" {
  provisioner "local-exec" {
    command = "echo this goes wrong >&2; exit 3"
  }
}
"""
TEXTS = {"growing": GROWING, "waiting": WAITING, "long": LONG, "broken": BROKEN}

#: name → level and configuration: a folder of the demo's, one of TEXTS, or "" for none yet.
ENVIRONMENTS = {
    "story-applies-only": (APPLIES, "hello"),
    "story-both": (BOTH, "hello"),
    "refused": (APPLIES, "hello"),
    "reused": (BOTH, "hello"),
    "reload": (NEVER, ""),
    "shared": (APPLIES, "hello"),
    "race": (NEVER, "hello"),
    "plain-never": (NEVER, "hello"),
    "plain-code": (APPLIES, "hello"),
    "plain-both": (BOTH, "hello"),
    "plain-forms": (NEVER, ""),
    "touch": (APPLIES, "hello"),
    "cancel": (NEVER, "waiting"),
    "long": (NEVER, "long"),
    "long-address": (NEVER, "long"),
    "hidden": (NEVER, "waiting"),
    "soon": (NEVER, "hello"),
    "keyboard": (APPLIES, "hello"),
    "double": (APPLIES, "hello"),
    "back": (BOTH, "hello"),
    "half-typed": (BOTH, "hello"),
    "expiry": (BOTH, "hello"),
    "confirm": (NEVER, "hello"),
    "still": (NEVER, "hello"),
    "uploads": (NEVER, ""),
    "empty": (BOTH, ""),
    "gallery-plan": (BOTH, "hello"),
    "gallery-code": (APPLIES, "hello"),
    "gallery-failed": (APPLIES, "hello"),
    "gallery-applied": (APPLIES, "hello"),
    "gallery-confirm": (NEVER, "hello"),
    "gallery-broken": (NEVER, "broken"),
    "gallery-running": (NEVER, "waiting"),
    "gallery-discarded": (NEVER, "hello"),
    "gallery-locked": (APPLIES, "hello"),
}


def enlist(state: Path) -> None:
    """Add the IAM users of the cast to the stand-in's folder, which nothing runs on yet."""
    store = Store(state, time.time)
    path = state / STATE_FILE
    data = json.loads(path.read_text())
    model = store.users["alice"]
    for name in (*PEOPLE, *NEWCOMERS):
        key = _letters(16, string.ascii_uppercase)
        user = Identity(
            name=name,
            user_id=f"AIDA{key}",
            access_key_id=f"AKIA{key}",
            secret_access_key=_letters(len(model.secret_access_key), string.ascii_letters),
            mfa_serial=f"arn:aws:iam::{ACCOUNT}:mfa/{name}",
            mfa_secret=totp.new_secret(),
        )
        data["users"][name] = asdict(user)
    path.write_text(json.dumps(data))


def archive(text: str) -> io.BytesIO:
    """A .tar.gz with one main.tf."""
    packed, content = io.BytesIO(), text.encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("main.tf")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    return packed


def make(home: Path) -> None:
    """Make the accounts, their variables and the environments."""
    store = Store(home / "aws", time.time)
    alice = db.session.scalars(select(User).where(User.name == "alice")).one()
    owner = organizations.membership(alice, "acme")
    for name in PEOPLE:
        user = accounts.create_user(name, f"{name}@acme.example", PASSWORD)
        _keys(organizations.add_member(owner.organization, user, Role.MEMBER), store.users[name])
    nora, otto, olga = (accounts.create_user(name, f"{name}@example.org", PASSWORD) for name in NEWCOMERS)
    organizations.add_member(organizations.create_organization("northwind", nora), otto, Role.MEMBER)
    organizations.create_organization("harbour", olga)
    for name, (level, configuration) in ENVIRONMENTS.items():
        about = f"Made for the browser tests: {name}"
        environment = environments.create_environment(owner, name, about)
        environments.save_settings(owner, environment, environments.Settings(level, 3600, about, ""))
        for person in ("bob", *PEOPLE):
            grants.give(owner, environment, Access.WRITE, person=person)
        if configuration:
            text = TEXTS.get(configuration) or (CONFIGURATIONS / configuration / "main.tf").read_text()
            message = f"Begin with {configuration}"
            configurations.upload(owner, environment, archive(text), f"{configuration}.tar.gz", message)


def _keys(membership: Membership, identity: Identity) -> None:
    place = Place(membership.organization, None, membership.user)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", identity.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", identity.secret_access_key),
        ("AWS_MFA_SERIAL_NUMBER", identity.mfa_serial),
    ):
        variables.save(membership, place, category=Category.ENV, name=name, value=value, sensitive=False)


def _letters(length: int, alphabet: str) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def main() -> int:
    """`python -m tests.browser.cast`, with LOCKSTEP_HOME in the environment."""
    app = create_app()
    with app.app_context():
        make(app.config["LOCKSTEP"].home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
