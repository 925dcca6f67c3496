"""Variables: saving, showing and resolving them for the person who acts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from flask import current_app
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError

from extensions import db
from models import Category, Environment, Membership, Organization, Scope, User, Variable
from policy import variables as rules
from policy.permissions import Permission
from services import audit, clock
from services.access import hold_membership, require
from services.errors import Invalid, NotFound, Outdated
from services.execution import hcl as language
from services.storage.vault import Vault, VaultError

_SAVE_SENSITIVE_AGAIN = "it is sensitive: type the value again to replace it, and tick “Sensitive” to keep it so."


@dataclass(frozen=True)
class Place:
    """Where a variable is set: an organization, perhaps one environment of it, perhaps one person's own."""

    organization: Organization
    environment: Environment | None = None
    owner: User | None = None

    @property
    def word(self) -> str:
        """The place in one word, the ``place`` column of a row."""
        parts = [f"o{self.organization.id}"]
        parts += [f"e{self.environment.id}"] if self.environment else []
        parts += [f"u{self.owner.id}"] if self.owner else []
        return "/".join(parts)


@dataclass(frozen=True)
class Resolved:
    """The values a run of one person has in one environment. ``repr`` shows no value.

    ``secrets`` are the texts to hide, ``clear`` those of the variables that are not sensitive, by the same rules.
    ``unhidden`` names the sensitive ones that are too short to be hidden in a log, or have a part that is:
    stored before that was refused.
    """

    env: dict[str, str] = field(repr=False)
    terraform: dict[str, str] = field(repr=False)
    hcl: dict[str, str] = field(repr=False)
    scopes: dict[str, Scope]
    secrets: tuple[str, ...] = field(repr=False)
    clear: frozenset[str] = field(repr=False)
    unhidden: tuple[str, ...] = ()

    @property
    def missing_for_mfa(self) -> list[str]:
        """Which of the three variables that a gate needs are not set."""
        return [name for name in rules.REQUIRED_FOR_MFA if not self.env.get(name)]

    @property
    def device(self) -> str | None:
        """The MFA serial that a code would be asked from."""
        return self.env.get(rules.MFA_SERIAL)

    @property
    def region(self) -> str | None:
        """The AWS region for STS: AWS_REGION, else AWS_DEFAULT_REGION."""
        return rules.region_of(self.env)


def always_sensitive(name: str) -> bool:
    """Whether a variable of this name is stored as sensitive whatever was ticked."""
    return name.strip().upper() == rules.SECRET_KEY


def panel(place: Place) -> list[Variable]:
    """The variables of one place, by name."""
    query = select(Variable).where(Variable.place == place.word).order_by(Variable.category, Variable.name)
    return list(db.session.scalars(query))


def shown_value(variable: Variable) -> str | None:
    """The value for a page; None for a sensitive one, which no page ever shows."""
    return None if variable.sensitive else _open(variable)


def save(
    membership: Membership,
    place: Place,
    *,
    category: Category,
    name: str,
    value: str,
    sensitive: bool,
    hcl: bool = False,
    variable_id: int | None = None,
    seen: str = "",
) -> Variable:
    """Make a variable, or with ``variable_id`` change the one whose :attr:`Variable.mark` was ``seen``, and commit.

    When a sensitive variable is changed with an empty value, its value stays. A secret key is always sensitive.
    Raises :class:`Forbidden`, :class:`NotFound`, :class:`Invalid` for field "name" or "value", and :class:`Outdated`
    when it is not what was seen any more.
    """
    _require_place(membership, place)
    existing = None if variable_id is None else find(place, variable_id, lock=True)
    if existing is not None:
        name, category = existing.name, existing.category
    sensitive, hcl = sensitive or always_sensitive(name), hcl and category is Category.TERRAFORM
    name = name.strip()
    keep = existing is not None and existing.sensitive and not value
    value = rules.normalise(name, value.replace("\r\n", "\n"))
    if existing is not None:
        if existing.mark != seen:
            if _made_so(existing, membership, None if keep else value, sensitive=sensitive, hcl=hcl):
                return existing
            again = _SAVE_SENSITIVE_AGAIN if existing.sensitive else "save again to replace it by what is here."
            raise _outdated(existing, membership, f"Nothing was saved; {again}")
        if keep and not sensitive:
            raise Invalid("value", "Type the value again to make it visible; the stored one is never shown.")
    for at, sentence in (
        ("name", rules.check_name(name, category.value)),
        ("value", None if keep else rules.check_value(name, category.value, value)),
    ):
        if sentence:
            raise Invalid(at, sentence)
    parts = language.literals(value) if hcl else None
    if sensitive and not keep and (sentence := rules.check_hideable(value, parts)):
        raise Invalid("value", sentence)
    variable = existing or Variable(
        place=place.word,
        organization_id=place.organization.id,
        environment_id=place.environment.id if place.environment else None,
        owner_id=place.owner.id if place.owner else None,
        category=category,
        name=name,
    )
    if not keep:
        variable.value = _vault().encrypt(value.encode(), variable.context)
    variable.sensitive, variable.hcl = sensitive, hcl
    variable.updated_at, variable.updated_by_id = clock.now(), membership.user_id
    db.session.add(variable)
    try:
        db.session.flush()
    except IntegrityError:
        db.session.rollback()
        raise Invalid("name", f"{name} is set here already. Edit that one instead.") from None
    _record(membership, place, variable, "variable.change" if existing else "variable.create")
    db.session.commit()
    return variable


def delete(membership: Membership, place: Place, variable_id: int, seen: str) -> str:
    """Remove the variable whose :attr:`Variable.mark` was ``seen``, commit, and return its name.

    Raises :class:`Forbidden`, :class:`NotFound`, :class:`Outdated`.
    """
    _require_place(membership, place)
    variable = find(place, variable_id, lock=True)
    if variable.mark != seen:
        raise _outdated(variable, membership, "Nothing was deleted; look at it as it is now before you delete it.")
    db.session.delete(variable)
    _record(membership, place, variable, "variable.delete")
    db.session.commit()
    return variable.name


def _made_so(variable: Variable, membership: Membership, value: str | None, *, sensitive: bool, hcl: bool) -> bool:
    """Whether this person made it what they want, at the first click of two; ``value`` None is for the stored one.

    Of somebody else's this tells nothing: a form could try what their secret is.
    """
    if variable.updated_by_id != membership.user_id or (variable.sensitive, variable.hcl) != (sensitive, hcl):
        return False
    return value is None or value == _open(variable)


def _outdated(variable: Variable, membership: Membership, what: str) -> Outdated:
    # Not by the relationship: who waited for the row has the name of who changed it before.
    by = db.session.get_one(User, variable.updated_by_id)
    who = "You" if by.id == membership.user_id else by.name
    changed = f"{who} changed {variable.name} on {variable.updated_at:%d %b %Y %H:%M} UTC"
    db.session.rollback()
    return Outdated({"value": f"{changed}, which your page did not show. {what}"})


def find(place: Place, variable_id: int, *, lock: bool = False) -> Variable:
    """A variable of exactly this place; with ``lock`` as it is now, and until the caller commits.

    Raises :class:`NotFound`.
    """
    held = {"of": Variable} if lock else None
    variable = db.session.get(Variable, variable_id, populate_existing=lock, with_for_update=held)
    if variable is None or variable.place != place.word:
        raise NotFound("No such variable.")
    return variable


def resolve(person: User, organization: Organization, environment: Environment | None = None) -> Resolved:
    """What a run of ``person`` has: organization < environment < personal < personal in the environment."""
    query = select(Variable).where(
        Variable.organization_id == organization.id,
        or_(Variable.owner_id.is_(None), Variable.owner_id == person.id),
        or_(
            Variable.environment_id.is_(None),
            Variable.environment_id == (environment.id if environment else None),
        ),
    )
    winners = rules.resolve(list(db.session.scalars(query)))
    values = {key: _open(row) for key, row in winners.items()}
    env = {row.name: values[key] for key, row in winners.items() if row.category is Category.ENV}
    terraform = {key: row for key, row in winners.items() if row.category is Category.TERRAFORM}
    hidden = {key: row for key, row in winners.items() if row.sensitive}
    secret = [text for key, row in hidden.items() for text in _texts(values[key], as_hcl=row.hcl)]
    clear = {text for key, row in winners.items() if key not in hidden for text in _texts(values[key], as_hcl=row.hcl)}
    secret += [env[name] for name in (rules.ACCESS_KEY, rules.SECRET_KEY) if env.get(name)]
    return Resolved(
        env=env,
        terraform={row.name: values[key] for key, row in terraform.items() if not row.hcl},
        hcl={row.name: values[key] for key, row in terraform.items() if row.hcl},
        scopes={row.name: row.scope for row in winners.values() if row.category is Category.ENV},
        secrets=tuple(secret),
        clear=frozenset(clear),
        unhidden=tuple(_called(row) for key, row in hidden.items() if not _hideable(row, values[key])),
    )


def _hideable(row: Variable, value: str) -> bool:
    return rules.check_hideable(value, language.literals(value) if row.hcl else None) is None


def _called(row: Variable) -> str:
    """A log is read by others than the owner of a personal variable, who alone may know that there is one."""
    return "a personal variable" if row.owner_id is not None else row.name


def sensitive_values(organization: Organization, environment: Environment) -> set[str]:
    """Whatever anybody's run in this environment would hide now: everybody's own values, too. Never to be shown.

    One that cannot be read is left out.
    """
    query = select(Variable).where(
        Variable.organization_id == organization.id,
        or_(Variable.environment_id.is_(None), Variable.environment_id == environment.id),
        or_(Variable.sensitive, Variable.name == rules.ACCESS_KEY),
    )
    found: set[str] = set()
    for row in db.session.scalars(query):
        with contextlib.suppress(VaultError):
            found.update(_texts(_open(row), as_hcl=row.hcl))
    return found


def _texts(value: str, *, as_hcl: bool) -> list[str]:
    """What is to be hidden of a sensitive value. Of an HCL one the strings count, beside the whole."""
    return [*language.secrets(value)] if as_hcl else [value]


def _require_place(membership: Membership, place: Place) -> None:
    """Shared ones are the owners'; an environment's need write; personal ones are only their creator's."""
    if place.owner is not None:
        if place.owner.id != membership.user_id:
            raise NotFound("No such variable.")
        if place.environment is not None:
            require(membership, Permission.READ, "You cannot see this environment.", place.environment)
        hold_membership(membership.organization_id, membership.user_id)
    elif place.environment is None:
        require(membership, Permission.EDIT_SHARED_VARIABLES, "Only owners can change the shared variables.")
    else:
        require(membership, Permission.WRITE, "You cannot change this environment's variables.", place.environment)


def _record(membership: Membership, place: Place, variable: Variable, action: str) -> None:
    """Owners read the audit log, and only their owner may know which personal variables there are."""
    named: dict[str, Any] = {} if place.owner else {"name": variable.name}
    audit.record(
        action,
        membership.user,
        organization=place.organization,
        environment=place.environment,
        **named,
        scope=variable.scope.value,
        sensitive=variable.sensitive,
    )


def _open(variable: Variable) -> str:
    return _vault().decrypt(variable.value, variable.context).decode()


def _vault() -> Vault:
    vault: Vault = current_app.config["LOCKSTEP"].vault
    return vault
