"""What the variable pages show: panels of rows, one of them perhaps as a form, and the check list for MFA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flask_wtf import FlaskForm
from wtforms import BooleanField, SelectField, StringField

from blueprints import effective
from models import Category, Environment, Membership, Scope, Variable
from policy import variables as rules
from policy.permissions import Permission
from services import access, variables
from services.unreadable import cannot_be_read
from services.variables import Place, Resolved

#: A longer value is cut in the list; the form shows it whole.
LONGEST_SHOWN = 400


class VariableForm(FlaskForm):
    """One variable. The name and category of an existing one stay; most panels have one category only."""

    category = SelectField(choices=[c.value for c in Category], coerce=Category)
    name = StringField()
    value = StringField()
    sensitive = BooleanField()
    hcl = BooleanField()
    seen = StringField()


@dataclass(frozen=True)
class Typed:
    """What a person typed that was not accepted, to be shown again. A secret value is never given back.

    ``seen`` is the mark of the variable that they know of, ``status`` the one of the answer.
    """

    variable_id: int | None
    name: str
    value: str
    category: Category
    sensitive: bool
    hcl: bool
    seen: str
    errors: dict[str, str]
    status: int = 422

    @classmethod
    def of(cls, form: VariableForm, category: Category, existing: Variable | None, errors: dict[str, str]) -> Typed:
        """From a refused form: it stays as old as it was."""
        name, sensitive = form.name.data or "", bool(form.sensitive.data)
        secret = sensitive or variables.always_sensitive(name) or (existing is not None and existing.sensitive)
        variable_id = existing.id if existing is not None else None
        value = "" if secret else form.value.data or ""
        return cls(variable_id, name, value, category, sensitive, bool(form.hcl.data), form.seen.data or "", errors)


@dataclass(frozen=True)
class Row:
    """A variable as its panel shows it.

    ``value`` is None for a sensitive one, whose value no page ever shows, for one that the present keys do not open,
    and where the person may know the name only (``hidden``).
    """

    variable: Variable
    value: str | None
    always_sensitive: bool
    unreadable: bool
    hidden: bool = False

    @classmethod
    def of(cls, variable: Variable, *, hidden: bool = False) -> Row:
        """With its value where that may be shown."""
        unreadable = not hidden and cannot_be_read(variable)
        value = None if unreadable or hidden else variables.shown_value(variable)
        return cls(variable, value, variables.always_sensitive(variable.name), unreadable, hidden)

    @property
    def shown(self) -> str:
        """The value for the list."""
        return (self.value or "")[:LONGEST_SHOWN]

    @property
    def cut(self) -> bool:
        """Whether the list shows only its beginning."""
        return self.value is not None and len(self.value) > LONGEST_SHOWN


@dataclass(frozen=True)
class Panel:
    """The variables of one place, of one category or (``category`` None) of both; the two addresses lead to it."""

    key: str
    place: Place
    category: Category | None
    may_edit: bool
    show_at: str
    save_at: str
    editing: int | None = None
    typed: Typed | None = None

    @cached_property
    def rows(self) -> list[Row]:
        """In the order of their names; environment variables first where both kinds stand together."""
        names_only = self.place.environment is not None and not self.may_edit
        found = variables.panel(self.place)
        return [Row.of(v, hidden=names_only) for v in found if self.category in (None, v.category)]

    @property
    def adding(self) -> Typed | None:
        """A refused new variable."""
        return self.typed if self.typed and self.typed.variable_id is None else None

    def edits(self, row: Row) -> bool:
        """Whether this row is shown as a form."""
        return self.may_edit and self.editing == row.variable.id

    def edit_at(self, row: Row) -> str:
        """The address of this page with the row as a form."""
        page = self.show_at.partition("#")[0]
        return f"{page}{'&' if '?' in page else '?'}edit={row.variable.id}#variable-{row.variable.id}"


@dataclass(frozen=True)
class Inherited:
    """A variable of the organization as the page of an environment shows it."""

    row: Row
    origin: str


def may_edit(membership: Membership, place: Place) -> bool:
    """The same rules by which services.variables guards a change."""
    if place.owner is not None:
        return place.owner.id == membership.user_id
    if place.environment is None:
        return membership.may(Permission.EDIT_SHARED_VARIABLES)
    return access.authority(membership, place.environment).may(Permission.WRITE)


def inherited(membership: Membership, environment: Environment) -> list[Inherited]:
    """The organization's variables, shared and personal, and whether a run of this person uses each."""
    person, organization = membership.user, membership.organization
    above = [Place(organization), Place(organization, owner=person)]
    here = [Place(organization, environment), Place(organization, environment, person)]
    rows = [v for where in above + here for v in variables.panel(where)]
    winners = {id(v) for v in rules.resolve(rows).values()}
    shown = sorted((v for v in rows if v.environment_id is None), key=lambda v: (v.name, v.scope_rank))
    return [
        Inherited(Row.of(v), ("personal" if v.owner_id else "shared") + ("" if id(v) in winners else ", replaced"))
        for v in shown
    ]


_ORIGINS = {
    Scope.ORGANIZATION: "shared",
    Scope.ENVIRONMENT: "environment",
    Scope.PERSONAL_ORGANIZATION: "personal",
    Scope.PERSONAL_ENVIRONMENT: "personal, environment",
}


@dataclass(frozen=True)
class CheckList:
    """Whether runs of this person can ask for a code, and with what; ``resolved`` None: a value cannot be read."""

    resolved: Resolved | None
    shared: frozenset[str]
    personal: frozenset[str]

    needed = rules.REQUIRED_FOR_MFA

    @classmethod
    def of(cls, membership: Membership) -> CheckList:
        """For the runs of a member in any environment of the organization."""
        places = Place(membership.organization), Place(membership.organization, owner=membership.user)
        shared, personal = (
            frozenset(v.name for v in variables.panel(place) if v.category is Category.ENV) for place in places
        )
        return cls(effective.values(membership.user, membership.organization), shared, personal)

    @property
    def missing(self) -> list[str]:
        """The needed ones that are not set."""
        return self.resolved.missing_for_mfa if self.resolved else []

    def origin(self, name: str) -> str | None:
        """Where a run of this person takes the variable from; None when it is set nowhere."""
        scope = self.resolved.scopes.get(name) if self.resolved else None
        return None if scope is None else _ORIGINS[scope]

    @property
    def mixed(self) -> bool:
        """Whether keys and device come from different panels, and so perhaps from different IAM users."""
        return self.resolved is not None and not self.missing and len({self.origin(name) for name in self.needed}) > 1
