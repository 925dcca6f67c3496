"""Environments and what they hold. A run is made in any status, with nothing queued."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import func, select

from extensions import db
from models import Category, ConfigurationVersion, Environment, Grant, Membership, Phase, Run, StateVersion, Variable
from policy.lifecycle import RunStatus
from policy.mfa import PhaseKind
from policy.permissions import Access, Role
from services import clock, states, variables
from services.storage import blobs
from services.variables import Place
from tests.factories.people import member, organization, person


def environment(name: str = "network", of: str = "acme", **columns: Any) -> Environment:
    """The environment of this name, made when it is not there yet; ``columns`` are set either way.

    The members that the organization has may write in a new one.
    """
    owner = organization(of)
    found = db.session.scalar(
        select(Environment).where(Environment.organization_id == owner.id, Environment.name == name)
    )
    if found is None:
        found = Environment(name=name, organization=owner, created_at=clock.now())
        db.session.add(found)
        db.session.flush()
        query = select(Membership.user_id).filter_by(organization_id=owner.id, role=Role.MEMBER)
        for user_id in db.session.scalars(query).all():
            db.session.add(Grant(environment_id=found.id, user_id=user_id, access=Access.WRITE))
    for column, value in columns.items():
        setattr(found, column, value)
    db.session.commit()
    return found


def lock(reason: str, by: str = "bob", name: str = "network") -> Environment:
    """The environment of this name, locked by this person's hand."""
    return environment(name, locked_by_id=person(by).id, locked_at=clock.now(), lock_reason=reason)


def configuration(of: Environment, content: bytes = b"not read by these tests") -> ConfigurationVersion:
    """The next configuration version of an environment. ``content`` stands where the archive would."""
    of.configuration_counter += 1
    version = ConfigurationVersion(
        environment_id=of.id,
        number=of.configuration_counter,
        message=f"Configuration v{of.configuration_counter}",
        filename="configuration.tar.gz",
        archive_kind="tar.gz",
        digest=hashlib.sha256(content).hexdigest(),
        size=len(content),
        files=1,
        blob_id=blobs.put("configuration", content).id,
        uploaded_at=clock.now(),
        uploaded_by_id=person("alice").id,
    )
    db.session.add(version)
    db.session.commit()
    return version


def run(of: Environment, status: RunStatus = RunStatus.PENDING, by: str = "alice", **columns: Any) -> Run:
    """The next run of an environment, in this status; it holds the environment when its status says so."""
    newest = db.session.scalar(
        select(func.max(ConfigurationVersion.id)).where(ConfigurationVersion.environment_id == of.id)
    )
    of.run_counter += 1
    values: dict[str, Any] = {
        "created_at": clock.now(),
        "mfa_level": of.mfa_level,
        "message": "Add a subnet",
        "finished_at": clock.now() if status.final else None,
        "configuration_id": newest or configuration(of).id,
    }
    made = Run(
        environment=of,
        number=of.run_counter,
        status=status,
        created_by=person(by),
        **(values | columns),
    )
    made.phases = [Phase(kind=PhaseKind.PLAN, actor=person(by)), Phase(kind=PhaseKind.APPLY)]
    db.session.add(made)
    db.session.flush()
    if status.holds_environment:
        of.active_run_id = made.id
    db.session.commit()
    return made


def state(of: Run, serial: int = 1, resources: int = 1) -> StateVersion:
    """A state that a run saved, stored as the worker does it."""
    one = {"mode": "managed", "type": "terraform_data", "name": "it", "instances": [{}] * resources}
    content = {"version": 4, "serial": serial, "lineage": "8a2f", "terraform_version": "1.11.4", "resources": [one]}
    version = states.store(of, json.dumps(content).encode())
    assert version is not None
    db.session.commit()
    return version


def variable(
    name: str,
    value: str,
    *,
    of: Environment | None = None,
    organization_name: str = "acme",
    owner: str | None = None,
    by: str = "alice",
    category: Category = Category.ENV,
    **options: Any,
) -> Variable:
    """A variable: shared, of an environment (``of``), personal (``owner``), or both. Saved through the service."""
    place = Place(organization(organization_name), of, person(owner) if owner else None)
    actor = member(owner or by, organization_name)
    options.setdefault("sensitive", False)
    return variables.save(actor, place, category=category, name=name, value=value, **options)
