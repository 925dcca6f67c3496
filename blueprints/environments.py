"""Making an environment, its settings, and the manual lock."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import login_required
from flask_wtf import FlaskForm
from markupsafe import Markup
from wtforms import IntegerField, SelectField, StringField
from wtforms.validators import InputRequired

from blueprints import effective
from blueprints.forms import problems, refused, stripped
from blueprints.incoming import whole
from blueprints.loading import here, load_environment, load_membership
from blueprints.sessions import prove_first
from models import Environment, Membership
from policy.mfa import MfaLevel
from policy.permissions import Permission
from services import environments, members, sandbox_notice, unkept
from services.access import require
from services.errors import Invalid, Outdated

blueprint = Blueprint("environments", __name__, url_prefix="/terraform/<organization>/environments")

_MINUTES = "A session lasts from 15 minutes to 36 hours (2,160 minutes)."


class MinutesField(IntegerField):
    """Whole minutes; anything else is refused with the sentence that names the limits."""

    def process_formdata(self, valuelist: list[str]) -> None:
        """From what was typed."""
        try:
            super().process_formdata(valuelist)
        except ValueError:
            raise ValueError(_MINUTES) from None


class NewForm(FlaskForm):
    """A new environment."""

    name = StringField(filters=[stripped])
    description = StringField(filters=[stripped])


class AdminForm(FlaskForm):
    """What an admin of the environment can change."""

    terraform_directory = StringField(filters=[stripped])
    description = StringField(filters=[stripped])


class SettingsForm(AdminForm):
    """What an owner can change."""

    mfa_level = SelectField(
        choices=[level.value for level in MfaLevel],
        coerce=MfaLevel,
        validators=[InputRequired("Choose one of the three.")],
    )
    session_minutes = MinutesField(validators=[InputRequired(_MINUTES)])


@blueprint.route("/new", methods=["GET", "POST"])
@login_required
def new(organization: str) -> ResponseReturnValue:
    """The form for a new environment, for owners."""
    membership = load_membership(organization)
    require(membership, Permission.CREATE_ENVIRONMENT, "Only owners can make environments.")
    form, errors = NewForm(), {}
    if request.method == "POST":
        try:
            made = environments.create_environment(membership, form.name.data or "", form.description.data or "")
        except Invalid as error:
            errors = refused(error)
        else:
            flash(f"Environment {made.name} made. Upload a configuration to queue its first plan.", "success")
            return redirect(url_for("runs.index", organization=organization, environment=made.name), 303)
    return render_template("environments/new.html", form=form, errors=errors), 422 if errors else 200


@blueprint.route("/<environment>/settings", methods=["GET", "POST"])
@login_required
def settings(organization: str, environment: str) -> ResponseReturnValue:
    """The settings; owners change them, admins all but the gate, others read them."""
    membership, found = load_environment(organization, environment)
    if request.method == "GET":
        return _page(membership, found, _filled(found))
    require(membership, Permission.EDIT_SETTINGS, "Only admins of this environment can change its settings.", found)
    kind = _asked()
    form, seen = kind(), kind(prefix="seen_", meta={"csrf": False})
    if not form.validate():
        return _page(membership, found, form, problems(form), seen=seen)
    try:
        environments.save_settings(membership, found, _settings(form), _settings(seen))
    except Invalid as error:
        return _page(membership, found, form, refused(error), seen=seen)
    except Outdated as error:
        return _page(membership, found, _carried_over(found, form, seen), error.fields, status=409)
    flash("Settings saved.", "success")
    _say_what_is_missing(membership, found)
    return redirect(_address(found), 303)


@blueprint.post("/<environment>/settings/lock")
@login_required
def lock(organization: str, environment: str) -> ResponseReturnValue:
    """Lock by hand, with a reason."""
    membership, found = load_environment(organization, environment)
    reason = request.form.get("reason", "")
    try:
        environments.lock(membership, found, reason)
    except Invalid as error:
        return _page(membership, found, _filled(found), refused(error), reason)
    flash(f"{found.name} is locked. Nothing new starts until somebody unlocks it.", "success")
    return redirect(_address(found), 303)


@blueprint.post("/<environment>/settings/unlock")
@login_required
def unlock(organization: str, environment: str) -> ResponseReturnValue:
    """Take the manual lock off; of somebody else's after a recent proof."""
    membership, found = load_environment(organization, environment)
    others = found.locked_by is not None and found.locked_by_id != membership.user_id
    if others and (asked := prove_first()) is not None:
        return asked
    environments.unlock(membership, found, request.form.get("lock", ""))
    flash(f"{found.name} is unlocked.", "success")
    return redirect(_address(found), 303)


@blueprint.post("/<environment>/settings/go-on")
@login_required
def go_on(organization: str, environment: str) -> ResponseReturnValue:
    """Let runs go on without a state that is missing, after a recent proof."""
    membership, found = load_environment(organization, environment)
    if (asked := prove_first()) is not None:
        return asked
    unkept.release(membership, found, request.form.get("run", 0, type=whole))
    flash(f"{found.name} is unlocked.", "success")
    return redirect(_address(found), 303)


def _page(
    membership: Membership,
    environment: Environment,
    form: AdminForm,
    errors: dict[str, str] | None = None,
    reason: str = "",
    seen: AdminForm | None = None,
    status: int = 422,
) -> ResponseReturnValue:
    """``seen`` is what the form says that its page showed: what is so now, unless it is a refused one's."""
    resolved = effective.values(membership.user, membership.organization, environment)
    template = "settings" if here().may(Permission.EDIT_SETTINGS) else "settings_read_only"
    page = render_template(
        f"environments/{template}.html",
        form=form,
        seen=seen or _filled(environment),
        errors=errors or {},
        reason=reason,
        missing=resolved.missing_for_mfa if resolved else [],
        unreadable=resolved is None,
        owners=members.owners(membership.organization),
        no_sandbox=sandbox_notice.missing(),
    )
    return page, status if errors else 200


def _filled(environment: Environment) -> SettingsForm:
    return SettingsForm(
        formdata=None,
        mfa_level=environment.mfa_level,
        session_minutes=environment.session_seconds // 60,
        terraform_directory=environment.terraform_directory,
        description=environment.description,
    )


def _asked() -> type[AdminForm]:
    """With the gate where it was sent: an admin's form has no fields for it, and the service refuses what is sent."""
    return SettingsForm if {"mfa_level", "session_minutes"} & set(request.form) else AdminForm


def _carried_over(environment: Environment, form: AdminForm, seen: AdminForm) -> SettingsForm:
    """The form of the page as it would be now, with what the person changed in theirs."""
    now = _filled(environment)
    for shown in seen:
        typed = form[shown.short_name].data
        if typed != shown.data:
            now[shown.short_name].data = typed
    return now


def _settings(form: AdminForm) -> environments.Settings:
    """What a form holds; None for what was not sent, or not as its field can be."""
    gate = form if isinstance(form, SettingsForm) else None
    minutes = gate.session_minutes.data if gate else None
    return environments.Settings(
        mfa_level=gate.mfa_level.data if gate else None,
        session_seconds=None if minutes is None else minutes * 60,
        description=form.description.data,
        terraform_directory=form.terraform_directory.data,
    )


def _say_what_is_missing(membership: Membership, environment: Environment) -> None:
    """After the settings are committed, so nothing here may end in a page that says that nothing was changed."""
    if environment.mfa_level is MfaLevel.NEVER:
        return
    resolved = effective.values(membership.user, membership.organization, environment)
    if resolved is None:
        sentence = Markup(
            "For runs that you initiate no code can be checked yet, because a stored value cannot be read: its"
            " encryption key is gone. Put the former <code>encryption_keys</code> of the data folder back, or set the"
            ' value anew in the <a href="{}">variables</a>.'
        )
        where = url_for(
            "variables.environment", organization=environment.organization.name, environment=environment.name
        )
        flash(sentence.format(where), "warning")
        return
    missing = resolved.missing_for_mfa
    if not missing:
        return
    sentence = Markup(
        "For runs that you initiate no code can be checked yet, because {} {} not set."
        ' Set {} in the <a href="{}">organization variables</a>.'
    )
    where = url_for("variables.organization", organization=membership.organization.name)
    one = len(missing) == 1
    names = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
    flash(sentence.format(names, "is" if one else "are", "it" if one else "them", where), "warning")


def _address(environment: Environment) -> str:
    return url_for("environments.settings", organization=environment.organization.name, environment=environment.name)
