"""Writing audit events. The caller commits, so that an event stands exactly when what it tells of stands."""

from __future__ import annotations

from typing import Any

from flask import g, has_request_context, request

from extensions import db
from models import AuditEvent, Environment, Organization, Run, User
from services import clock


def record(
    action: str,
    actor: User | None,
    *,
    organization: Organization | None = None,
    environment: Environment | None = None,
    run: Run | None = None,
    **details: Any,
) -> None:
    """Add an event to the session.

    ``action`` is "thing.verb". ``details`` are names and before → after values that can be read by every owner:
    never a secret. ``actor`` None stands for Lockstep itself. The organization follows from run or environment.
    """
    environment = environment or (run.environment if run else None)
    organization = organization or (environment.organization if environment else None)
    here = has_request_context()
    db.session.add(
        AuditEvent(
            at=clock.now(),
            actor_id=actor.id if actor else None,
            actor_name=actor.name if actor else "Lockstep",
            organization_id=organization.id if organization else None,
            environment_id=environment.id if environment else None,
            run_id=run.id if run else None,
            action=action,
            details=details,
            address=(request.remote_addr or "") if here else "",
            request_id=g.get("request_id", "") if here else "",
        )
    )
