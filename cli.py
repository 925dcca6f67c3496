"""Commands for operators: `flask user …`, `flask organization …`, `flask blobs …`, `flask vault …`, `flask doctor`."""

from __future__ import annotations

import sys
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, ScriptInfo, with_appcontext

import cli_audit
from policy.permissions import Role
from services import accounts, links, members, organizations, second_factor, sign_ins
from services.errors import LockstepError
from services.storage import key_check, leftovers, rotation

_NO_DATABASE = "The database does not answer, or has no tables yet. Nothing was changed. `flask doctor` says more."


class Guarded(AppGroup):
    """Commands that refuse to work with keys that are not the installation's."""

    def invoke(self, ctx: click.Context) -> Any:
        """Look at the keys, then do what was asked."""
        with ctx.ensure_object(ScriptInfo).load_app().app_context():
            try:
                key_check.prove()
            except key_check.WrongKeys as error:
                raise click.ClickException(str(error)) from None
            if key_check.is_owed():
                raise click.ClickException(_NO_DATABASE)
        return super().invoke(ctx)


user_commands = Guarded("user", help="People.")
organization_commands = Guarded("organization", help="Organizations.")
blob_commands = Guarded("blobs", help="Configurations, plans and states.")
#: Not guarded: it tells what is wrong with the keys.
vault_commands = AppGroup("vault", help="What is encrypted: variables, configurations, plans, states.")


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(cli_audit.audit_commands)
    for command in (user_commands, organization_commands, blob_commands, vault_commands, examine):
        app.cli.add_command(command)


@user_commands.command("create")
@click.argument("name")
@click.option("--email", required=True, help="E-mail address.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
@click.option("--organization", help="Make the person a member of this organization.")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="Their part in it.  [default: member]")
def create_user(name: str, email: str, password_stdin: bool, organization: str | None, role: str | None) -> None:
    """Make an account. A member of an organization sees the environments that somebody there gives access to."""
    if role and not organization:
        raise click.UsageError("--role goes with --organization.")
    try:
        # Looked up first: a wrong name must not leave an account behind.
        joined = organizations.by_name(organization) if organization else None
        user = accounts.create_user(name, email, _password(password_stdin))
        if joined:
            organizations.add_member(joined, user, Role(role or Role.MEMBER))
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    place = f", {role or Role.MEMBER.value} of {organization}" if organization else ""
    click.echo(f"Created the user {name}{place}.")


@user_commands.command("password")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
def set_password(name: str, password_stdin: bool) -> None:
    """Set somebody's password; they are signed out everywhere."""
    try:
        accounts.operator_password(accounts.by_name(name), _password(password_stdin))
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{name} has a new password and is signed out everywhere.")


@user_commands.command("reset-link")
@click.argument("name")
def make_reset_link(name: str) -> None:
    """Print a link, good for an hour, with which somebody sets a new password."""
    try:
        secret = links.operator_reset(accounts.by_name(name))
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{current_app.config['LOCKSTEP'].public_url or ''}/link/{secret}")


@user_commands.command("second-factor-off")
@click.argument("name")
def take_second_factor(name: str) -> None:
    """Take the second factor of somebody away who lost it."""
    try:
        second_factor.operator_reset(accounts.by_name(name))
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{name} has no second factor now.")


@user_commands.command("sign-out")
@click.argument("name")
def sign_out(name: str) -> None:
    """Sign somebody out everywhere. Their API tokens go on working."""
    try:
        sign_ins.operator_end(accounts.by_name(name))
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{name} is signed out everywhere.")


@organization_commands.command("create")
@click.argument("name")
def create_organization(name: str) -> None:
    """Make an organization; give it an owner with `flask user create --organization NAME --role owner`."""
    try:
        organizations.create_organization(name)
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Created the organization {name}.")


@organization_commands.command("role")
@click.argument("organization")
@click.argument("name")
@click.argument("role", type=click.Choice([role.value for role in Role]))
def set_role(organization: str, name: str, role: str) -> None:
    """Make a member an owner, or an owner a member: for when no owner can sign in any more. The last owner stays."""
    try:
        found = organizations.by_name(organization)
        organizations.add_member(found, members.member(found, name).user, Role(role))
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{name} is {role} of {organization} now.")


@blob_commands.command("check")
@click.option("--remove", is_flag=True, help="Remove the objects that nothing names.")
def check_blobs(remove: bool) -> None:
    """Compare the bucket of BLOB_STORE with the database. Exit code 1 when an object is missing.

    Objects without a row that are older than a day were left by a process that was killed.
    """
    try:
        found = leftovers.check()
        if found is None:
            click.echo("Blobs go into the database: there is no bucket to check.")
            return
        if remove:
            leftovers.remove(found.leftovers)
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    for address in found.leftovers:
        click.echo(f"{'removed ' if remove else 'leftover'} {address}")
    for address in found.missing:
        click.echo(f"missing  {address}")
    click.echo(f"{len(found.leftovers)} left over, {len(found.missing)} missing.")
    if found.missing:
        sys.exit(1)


@vault_commands.command("check")
def check_vault() -> None:
    """Open everything that is encrypted, and name what cannot be read. Exit code 1 when there is something."""
    try:
        report = rotation.check()
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    _tell(report)


@vault_commands.command("rotate")
def rotate_vault() -> None:
    """Encrypt everything with the first key of ENCRYPTION_KEYS. Web server and workers may run meanwhile.

    It can be stopped and started again at any time. Exit code 1 when something has another key or cannot be read.
    """
    try:
        key_check.prove()
        if key_check.is_owed():
            raise click.ClickException(_NO_DATABASE)
        report = rotation.rotate()
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{report.changed} values were encrypted anew.")
    _tell(report)
    if report.older:
        click.echo("A process still encrypts with another key: give every machine the same first key, restart, repeat.")
        sys.exit(1)


@vault_commands.command("begin-anew")
@click.confirmation_option(prompt="What the present keys do not open stays unreadable. Take them all the same?")
def begin_vault_anew() -> None:
    """Take the present keys where the old ones are lost for good."""
    key_check.begin_anew()
    click.echo("The present keys count from now on. Set the variables again that `flask vault check` names.")
    if lost := second_factor.unreadable():
        who = "1 person has" if len(lost) == 1 else f"{len(lost)} people have"
        click.echo(f"{who} a second factor that cannot be read: {', '.join(lost)}.")
        click.echo("Recovery codes still sign them in; for who has none: flask user second-factor-off NAME")


def _tell(report: rotation.Report) -> None:
    for unreadable in report.unreadable:
        click.echo(f"unreadable  {unreadable}")
    keys = ", ".join(f"{count} with key {key}" for key, count in sorted(report.keys.items()))
    click.echo(f"{report.read} values read{f' ({keys})' if keys else ''}, {len(report.unreadable)} cannot be read.")
    if report.unreadable:
        sys.exit(1)


@click.command("doctor")
@with_appcontext
def examine() -> None:
    """Check everything that Lockstep needs, and say what to do. Exit code 1 when there is a problem."""
    from services import doctor  # it loads Alembic, which no server needs

    colours = {doctor.Status.OK: "green", doctor.Status.WARNING: "yellow", doctor.Status.PROBLEM: "red"}
    problems = 0
    for finding in doctor.examine():
        problems += finding.status is doctor.Status.PROBLEM
        status = click.style(f"{finding.status:<8}", fg=colours[finding.status])
        click.echo(f"{status} {finding.subject:<15} {finding.detail}")
        if finding.advice:
            click.echo(f"{'':<25}→ {finding.advice}")
    if problems:
        sys.exit(1)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt="Again")
    return answer
