"""The lock that somebody's terraform takes through the http backend: LOCK, UNLOCK, and taking it off from the page.

It is on the same row as the run that holds the environment, and both are set by compare-and-set, so there is one or
the other. (Terraform, "http" backend: 423 with the LockInfo of whoever holds it; terraform 1.11 prints only its ID.)
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from sqlalchemy import or_, update

from extensions import db
from models import Environment, Membership, User
from policy.permissions import Permission
from services import audit, clock, holds, runs
from services.access import authority, require
from services.compare_and_set import won
from services.errors import Conflict, Forbidden, LockstepError
from services.holds import HolderKind

_FIELDS = ("Operation", "Info", "Who", "Version", "Created", "Path")
_ID = re.compile(r"[!-~]{1,100}")
_FREE: dict[str, Any] = {
    "state_lock_id": None, "state_lock_by_id": None, "state_lock_at": None, "state_lock_info": None,
}  # fmt: skip
_NOT_YOURS = "Only who holds the lock and owners of the organization can take it off. Nothing was changed."


class Locked(LockstepError):
    """Somebody else holds the state (423). ``info`` is their LockInfo, as terraform reads it."""

    def __init__(self, info: dict[str, str]) -> None:
        super().__init__(f"The state is held: {info['ID']}. Nothing was changed.")
        self.info = info


class BadLock(LockstepError):
    """A LockInfo without an ID that can be kept (400)."""


def lock_id(info: Any) -> str:
    """The ID of a LockInfo. Raises :class:`BadLock`.

    What follows a blank is left out: it is what :func:`info_of` adds for people.
    """
    found = str(info.get("ID", "")).partition(" ")[0] if isinstance(info, dict) else ""
    if not _ID.fullmatch(found):
        raise BadLock("The body must be terraform's LockInfo, with an ID.")
    return found


def take(membership: Membership, environment: Environment, info: Any) -> None:
    """Lock the state for this person's terminal, and commit. The same lock again is no error: answers can be lost.

    Raises :class:`services.errors.Forbidden`, :class:`BadLock`, and :class:`Locked` when it is held.
    """
    require(membership, Permission.WRITE_STATE, "You cannot lock the state of this environment.", environment)
    wanted, user = lock_id(info), membership.user
    kept = {"ID": wanted} | {name: _text(info[name]) for name in _FIELDS if name in info}
    statement = update(Environment).where(
        Environment.id == environment.id,
        Environment.state_lock_id.is_(None),
        Environment.active_run_id.is_(None),
        Environment.unkept_run_id.is_(None),
        or_(Environment.locked_by_id.is_(None), Environment.locked_by_id == user.id),
    )
    values = {"state_lock_id": wanted, "state_lock_by_id": user.id, "state_lock_at": clock.now()}
    if won(statement.values(**values, state_lock_info=kept)):
        audit.record("state.lock", user, environment=environment, id=wanted, operation=kept.get("Operation", ""))
        db.session.commit()
        return
    db.session.refresh(environment)
    if _is_theirs(environment, user, wanted):
        db.session.rollback()
        return
    # Let go at this very moment: terraform is told to come again, as for any other holder.
    raise Locked(info_of(environment, user) or _lock_info("somebody who has just let go", "", "", "", None))


def _text(sent: Any) -> str:
    """What is kept of a field. Half a pair of surrogates could be on no page, and PostgreSQL takes no NUL."""
    return str(sent).encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:200]


def require_theirs_or_free(environment: Environment, user: User, sent: str | None) -> None:
    """Raise :class:`Locked` unless this person may write the state now: with the ID of their lock, or nobody's.

    The caller holds the environment's row still.
    """
    db.session.refresh(environment)
    if sent is not None and _is_theirs(environment, user, sent.partition(" ")[0]):
        return
    held = info_of(environment, user)
    if held is not None:
        raise Locked(held)


def release(membership: Membership, environment: Environment, sent: str | None) -> None:
    """Take the terminal's lock off, commit, and start what was pending. Nothing to take off is no error.

    ``sent`` is the ID of the lock, None for `terraform force-unlock`, which sends none (1.11). Raises
    :class:`Locked` for another ID and :class:`services.errors.Forbidden` for another person who is no admin.
    """
    require(membership, Permission.WRITE_STATE, "You cannot unlock the state of this environment.", environment)
    found = environment.state_lock_id
    if found is None:
        runs.start_pending(environment.id)
        return
    if sent is not None and sent != found:
        raise Locked(info_of(environment, None) or {})
    _take_off(membership, environment, found, forced=sent is None)


def take_off(membership: Membership, environment: Environment, seen: str) -> None:
    """The same from the page, for the lock that was seen there. Raises :class:`Conflict` when it is another one now."""
    if environment.state_lock_id is None or environment.state_lock_id != seen:
        raise Conflict("That lock is gone already. Nothing was changed.")
    _take_off(membership, environment, seen, forced=True)


def may_take_off(membership: Membership, environment: Environment) -> bool:
    """Whether the lock is this person's, or they are an admin here."""
    here = authority(membership, environment)
    own = environment.state_lock_by_id == membership.user_id and here.may(Permission.WRITE_STATE)
    return own or here.may(Permission.REPLACE_STATE)


def _take_off(membership: Membership, environment: Environment, found: str, *, forced: bool) -> None:
    if not may_take_off(membership, environment):
        raise Forbidden(_NOT_YOURS)
    holder = environment.state_lock_by.name if environment.state_lock_by else ""
    statement = update(Environment).where(Environment.id == environment.id, Environment.state_lock_id == found)
    if not won(statement.values(**_FREE)):
        raise Conflict("That lock is gone already. Nothing was changed.")
    action = "state.force_unlock" if forced else "state.unlock"
    audit.record(action, membership.user, environment=environment, id=found, holder=holder)
    db.session.commit()
    runs.start_pending(environment.id)


def _is_theirs(environment: Environment, user: User, sent: str) -> bool:
    return environment.state_lock_id == sent and environment.state_lock_by_id == user.id


def info_of(environment: Environment, user: User | None) -> dict[str, str] | None:
    """The LockInfo of what keeps ``user`` (None: anybody) from writing; None when nothing does.

    Its ID names the holder in words, because it is all that terraform prints.
    """
    found = holds.hindering(environment, user) if user else holds.holder(environment)
    if found is None:
        return None
    path = f"{environment.organization.name}/{environment.name}"
    if found.kind is HolderKind.RUN and found.run is not None:
        who = f"run #{found.run.number} ({found.name})"
        version = found.run.terraform_version or ""
        return _lock_info(f"{who} of Lockstep, {found.what}", found.what, who, path, found.since, version=version)
    if found.kind in (HolderKind.PERSON, HolderKind.STATE):
        who = found.name if found.kind is HolderKind.STATE else f"{found.name}, by hand"
        return _lock_info(f"locked by {found.name}: {found.what}", "lock", who, path, found.since, info=found.what)
    sent = environment.state_lock_info or {}
    since = f" since {found.since:%d %b %Y %H:%M} UTC" if found.since else ""
    words = f"{environment.state_lock_id} ({found.name}, {found.what}{since})"
    return _lock_info(words, "", found.name, path, found.since) | {
        name: str(value) for name, value in sent.items() if name in _FIELDS and value
    } | {"Who": f"{found.name} ({sent.get('Who', '')})"}  # fmt: skip


def _lock_info(
    words: str, operation: str, who: str, path: str, since: datetime | None, *, info: str = "", version: str = ""
) -> dict[str, str]:
    created = (since or clock.now()).isoformat()
    return {
        "ID": words, "Operation": operation, "Info": info, "Who": who,
        "Version": version, "Created": created, "Path": path,
    }  # fmt: skip
