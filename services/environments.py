"""Environments: making, settings, the manual lock, and which run holds one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from extensions import db
from models import Environment, Membership, Run
from policy.lifecycle import Event, RunStatus
from policy.mfa import SESSION_LEAST, SESSION_MOST, MfaLevel
from policy.permissions import Permission
from services import audit, clock, runs
from services.access import Authority, authority, require, visible
from services.compare_and_set import won
from services.errors import Conflict, Invalid, NotFound, Outdated
from services.organizations import SLUG, SLUG_SENTENCE

_ONLY_ADMINS = "Only admins of this environment can change its settings."


@dataclass(frozen=True)
class Settings:
    """The fields of the settings form. None for what a form does not have: level and session length are the owners'."""

    mfa_level: MfaLevel | None
    session_seconds: int | None
    description: str | None
    terraform_directory: str | None

    @classmethod
    def of(cls, environment: Environment) -> Settings:
        """As they are now."""
        gate = environment.mfa_level, environment.session_seconds
        return cls(*gate, environment.description, environment.terraform_directory)


def create_environment(membership: Membership, name: str, description: str = "") -> Environment:
    """Make an environment and commit. Raises :class:`Forbidden`, :class:`Invalid`."""
    require(membership, Permission.CREATE_ENVIRONMENT, "Only owners can make environments.")
    if not SLUG.fullmatch(name):
        raise Invalid("name", SLUG_SENTENCE)
    if name == "new":  # …/environments/new is the form
        raise Invalid("name", "An environment cannot be called new.")
    environment = Environment(
        organization_id=membership.organization_id,
        organization=membership.organization,
        name=name,
        description=_short(description, "description", 200),
        created_at=clock.now(),
    )
    db.session.add(environment)
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise Invalid("name", f"There is an environment {name} already.") from None
    audit.record("environment.create", membership.user, environment=environment)
    db.session.commit()
    return environment


def enter(membership: Membership, name: str) -> Authority:
    """The environment of this name with what the member may do there.

    Raises :class:`NotFound` for a missing one, and for one that the member has no access to, alike.
    """
    query = select(Environment).where(
        Environment.organization_id == membership.organization_id, Environment.name == name
    )
    found = db.session.scalar(query)
    here = authority(membership, found) if found is not None else None
    if here is None or not here.may(Permission.READ):
        raise NotFound("No such environment.")
    return here


def environment(membership: Membership, name: str) -> Environment:
    """As :func:`enter`, the environment alone."""
    return enter(membership, name).environment


def environments(membership: Membership) -> list[Environment]:
    """The organization's environments that the member has access to, by name."""
    here = Membership.organization_id == membership.organization_id, Membership.user_id == membership.user_id
    query = select(Environment).join(Membership, Membership.organization_id == Environment.organization_id)
    return list(db.session.scalars(query.where(*here, visible()).order_by(Environment.name)))


def save_settings(
    membership: Membership, environment: Environment, wanted: Settings, seen: Settings | None = None
) -> None:
    """Save the settings with an audit event of what changed, and commit.

    ``seen`` is what the page showed that ``wanted`` comes from; without it, what ``environment`` was loaded with. What
    is wanted as it was seen stays as it is now. What is wanted otherwise is changed only from what was seen, so that
    nobody overwrites what they do not know of. A raised level reaches runs that await confirmation at once: they await
    authentication from now on. Raises :class:`Forbidden` for anyone but admins, and for an admin who would set level or
    session length; :class:`Invalid` for a field; :class:`Outdated` for those that were seen otherwise than they are.
    """
    require(membership, Permission.EDIT_SETTINGS, _ONLY_ADMINS, environment)
    if wanted.mfa_level is not None or wanted.session_seconds is not None:
        require(membership, Permission.SET_MFA_LEVEL, "Only owners can change the MFA level and the session length.")
    shown, values = vars(seen or Settings.of(environment)), _checked(wanted)
    _hold_still(environment)
    before = vars(Settings.of(environment))
    # Two who want the same do not collide, nor does a double click.
    changes = {name: value for name, value in values.items() if value not in (shown[name], before[name])}
    if outdated := [name for name in changes if shown[name] != before[name]]:
        sentences = _sentences(environment)
        db.session.rollback()
        raise Outdated(dict(sentences[name] for name in outdated))
    for name, value in changes.items():
        setattr(environment, name, value)
    environment.settings_saved_at, environment.settings_saved_by_id = clock.now(), membership.user_id
    changed = {name: [str(before[name]), str(value)] for name, value in changes.items()}
    audit.record("environment.settings", membership.user, environment=environment, changed=changed)
    db.session.flush()
    _raise_gates(membership, environment)
    db.session.commit()


def _checked(wanted: Settings) -> dict[str, Any]:
    """What is wanted, in the form in which it is stored. Raises :class:`Invalid`."""
    values = {name: value for name, value in vars(wanted).items() if value is not None}
    if not SESSION_LEAST <= values.get("session_seconds", SESSION_LEAST) <= SESSION_MOST:
        raise Invalid("session_minutes", "A session lasts from 15 minutes to 36 hours (2,160 minutes).")
    if wanted.description is not None:
        values["description"] = _short(wanted.description, "description", 200)
    if wanted.terraform_directory is not None:
        values["terraform_directory"] = _directory(wanted.terraform_directory)
    return values


def _sentences(environment: Environment) -> dict[str, tuple[str, str]]:
    """For each setting its field of the form, and what is said there when the page was out of date."""
    now = {
        "mfa_level": ("mfa_level", environment.mfa_level.value),
        "session_seconds": ("session_minutes", str(environment.session_seconds // 60)),
        "description": ("description", environment.description),
        "terraform_directory": ("terraform_directory", environment.terraform_directory),
    }
    sentence = (
        "This is {} now. Your page was out of date, so nothing was changed; save again to replace it by what is here."
    )
    return {name: (field, sentence.format(f"“{value}”" if value else "empty")) for name, (field, value) in now.items()}


def _hold_still(environment: Environment) -> None:
    """Lock the environment, so that its settings are what is read here until the commit, and the run that holds it: one
    whose plan ends at this moment must not slip past a raised level.

    The run before the environment, as everywhere.
    """
    active = select(Environment.active_run_id).where(Environment.id == environment.id).scalar_subquery()
    db.session.execute(select(Run.id).where(Run.id == active).with_for_update())
    db.session.refresh(environment, with_for_update={"of": Environment, "key_share": True})


def _raise_gates(membership: Membership, environment: Environment) -> None:
    waiting = select(Run).where(Run.environment_id == environment.id, Run.status == RunStatus.AWAITING_CONFIRMATION)
    for run in db.session.scalars(waiting):
        if not run.gate.open_for(run.apply.kind):
            with contextlib.suppress(Conflict):  # it moved on at this moment, by the level it found
                runs.transition(run, Event.RAISE)
                audit.record("run.gate_raised", membership.user, run=run)


def lock(membership: Membership, environment: Environment, reason: str) -> None:
    """Lock by hand: no plan and no apply starts until it is unlocked, not even one that is queued; a running
    one finishes. Commits.
    """
    require(membership, Permission.LOCK, "You cannot lock this environment.", environment)
    reason = _short(reason, "reason", 120)
    if not reason:
        raise Invalid("reason", "Say why, so that others know whom to ask and for what.")
    values = {"locked_by_id": membership.user_id, "locked_at": clock.now(), "lock_reason": reason}
    statement = update(Environment).where(Environment.id == environment.id, Environment.locked_by_id.is_(None))
    if not won(statement.values(**values)):
        raise Conflict("Somebody locked this environment just now. Nothing was changed.")
    audit.record("environment.lock", membership.user, environment=environment, reason=reason)
    db.session.commit()


def unlock(membership: Membership, environment: Environment, seen: str) -> None:
    """Take off the manual lock whose :attr:`Environment.lock_mark` was ``seen``, commit, and start what was queued or
    pending.

    Raises :class:`Forbidden`, and :class:`Conflict` when that lock is gone already, whether or not another is there.
    """
    require(membership, Permission.LOCK, "You cannot unlock this environment.", environment)
    same = Environment.locked_by_id == environment.locked_by_id, Environment.locked_at == environment.locked_at
    values = {"locked_by_id": None, "locked_at": None, "lock_reason": ""}
    statement = update(Environment).where(Environment.id == environment.id, *same).values(**values)
    if environment.lock_mark != seen or not won(statement):
        db.session.rollback()  # what is so now is told
        raise Conflict(_not_that_lock(environment))
    audit.record("environment.unlock", membership.user, environment=environment)
    environment_id = environment.id
    db.session.commit()
    runs.start_all(environment_id)


def _not_that_lock(environment: Environment) -> str:
    if environment.locked_by is None:
        return "This environment is not locked. Nothing was changed."
    return (
        f"{environment.name} is locked by {environment.locked_by.name} now: {environment.lock_reason}. Nothing was "
        "changed, because your page did not show this lock; look at the settings as they are now before you unlock it."
    )


def _short(text: str, field: str, most: int) -> str:
    text = " ".join(text.split())
    if len(text) > most:
        raise Invalid(field, f"At most {most} characters.")
    return text


def _directory(text: str) -> str:
    parts = [part for part in text.strip().strip("/").split("/") if part not in ("", ".")]
    if any(part == ".." or "\\" in part or "\0" in part for part in parts) or len(text) > 500:
        raise Invalid("terraform_directory", "Name a folder inside the configuration, such as live/network.")
    return "/".join(parts)
