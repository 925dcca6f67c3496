"""Comparing two versions of a state for a page: masked, so it is no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from extensions import db
from models import Environment, Membership, StateVersion
from policy import state_diff, state_file
from policy.permissions import Permission
from policy.state_diff import StateDiff
from policy.state_file import NotAState, State
from services import run_secrets, states, variables
from services.access import require
from services.errors import NotFound
from services.execution.redact import Redactor

#: How many versions the two lists to choose from hold.
CHOICES = 200


@dataclass(frozen=True)
class Compared:
    """``before`` is None for the first version: everything in it is new. ``diff`` is None where a state cannot be
    looked into.
    """

    before: StateVersion | None
    after: StateVersion
    diff: StateDiff | None
    choices: Sequence[StateVersion]


def compare(membership: Membership, environment: Environment, before: int | None, after: int | None) -> Compared:
    """What differs between two versions, by number; the current one and the one before it where none is named.

    Raises :class:`services.errors.NotFound`.
    """
    require(membership, Permission.READ, "You cannot read the states of this environment.", environment)
    choices = states.versions(environment, limit=CHOICES)
    if not choices:
        raise NotFound("No such state.")
    newer = states.version(environment, after) if after is not None else choices[0]
    if before is None:
        older = next(iter(states.versions(environment, before=newer.number, limit=1)), None)
    else:
        older = states.version(environment, before)
    contents = [states.read(version)[1] if version else None for version in (older, newer)]
    hide = _hider(environment, older, newer)
    db.session.rollback()  # reading large states takes a while
    try:
        parsed = [_parsed(content) for content in contents]
    except NotAState:
        return Compared(older, newer, None, choices)
    return Compared(older, newer, state_diff.compare(parsed[0], parsed[1] or {}, hide), choices)


def _hider(environment: Environment, *versions: StateVersion | None) -> Callable[[str], str]:
    """Takes out of a text what was secret in the runs that the states come from, and what is now."""
    behind = {one for version in versions if version for one in run_secrets.behind(environment.id, version.number)}
    secrets = run_secrets.of(*behind)
    secrets |= variables.sensitive_values(environment.organization, environment)
    return Redactor(secrets).text


def serials(environment: Environment, numbers: Sequence[int | None]) -> dict[int, int]:
    """The serials of some versions, by number."""
    query = select(StateVersion.number, StateVersion.serial).where(
        StateVersion.environment_id == environment.id, StateVersion.number.in_({one for one in numbers if one})
    )
    return {row.number: row.serial for row in db.session.execute(query)}


def _parsed(content: bytes | None) -> State | None:
    return None if content is None else state_file.parse(content)
