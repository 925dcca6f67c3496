"""Writing audit events. The caller commits, so that an event stands exactly when what it tells of stands."""

from __future__ import annotations

import json
from typing import Any

from flask import g, has_request_context, request
from sqlalchemy import event
from sqlalchemy.orm import Session

from extensions import db
from models import AuditEvent, Environment, Organization, Run, User
from services import audit_chain, clock

#: In ``session.info``: the events that the session's next commit puts into the chain.
_NEW = "audit"
_LONGEST_ADDRESS = 64


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
    ``details["user"]`` is the name of the account that an event outside of any organization is about.
    """
    environment = environment or (run.environment if run else None)
    organization = organization or (environment.organization if environment else None)
    here = has_request_context()
    made = AuditEvent(
        at=clock.now(),
        actor_id=actor.id if actor else None,
        actor_name=actor.name if actor else "Lockstep",
        organization_id=organization.id if organization else None,
        environment_id=environment.id if environment else None,
        run_id=run.id if run else None,
        action=action,
        # As it will be read back, because the digest is taken of that.
        details=json.loads(json.dumps(details)),
        address=_address() if here else "",
        request_id=g.get("request_id", "") if here else "",
    )
    db.session.add(made)
    db.session.info.setdefault(_NEW, []).append(made)


def _address() -> str:
    """Where the request came from. Behind a proxy it is text from a header."""
    return "".join(char for char in request.remote_addr or "" if char.isprintable())[:_LONGEST_ADDRESS]


@event.listens_for(db.session, "before_commit")
def _chain(session: Session) -> None:
    """Give the new events their places, last of all: who waits for the end of the chain then holds nothing back.

    The flush comes first: it takes every lock that the transaction needs, those of the rows that the events name
    included. Otherwise two transactions could wait for each other.
    """
    if session.in_nested_transaction():
        return
    events = [made for made in session.info.pop(_NEW, ()) if made in session]
    if events:
        session.flush()
        audit_chain.append(session, events)
        session.flush()


@event.listens_for(AuditEvent, "before_update")
def _only_places_are_set(_mapper: Any, _connection: Any, target: AuditEvent) -> None:
    changed = {key for key in _CHAINED if db.inspect(target).attrs[key].history.deleted}
    if changed:
        raise RuntimeError(f"An audit event cannot be changed: {', '.join(sorted(changed))}.")


@event.listens_for(AuditEvent, "before_delete")
def _nothing_is_removed(_mapper: Any, _connection: Any, _target: AuditEvent) -> None:
    raise RuntimeError("An audit event cannot be removed.")


_CHAINED = frozenset(
    ("at", "actor_id", "actor_name", "organization_id", "environment_id", "run_id", "action", "details", "address",
     "request_id")
)  # fmt: skip
