"""Commands for operators: `flask user …`, `flask organization …`, `flask blobs …`, `flask doctor`."""

from __future__ import annotations

import sys

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext

import cli_audit
from policy.permissions import Role
from services import accounts, doctor, organizations
from services.errors import LockstepError
from services.storage import leftovers

user_commands = AppGroup("user", help="People.")
organization_commands = AppGroup("organization", help="Organizations.")
blob_commands = AppGroup("blobs", help="Configurations, plans and states.")


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(cli_audit.audit_commands)
    for command in (user_commands, organization_commands, blob_commands, examine):
        app.cli.add_command(command)


@user_commands.command("create")
@click.argument("name")
@click.option("--email", required=True, help="E-mail address.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
@click.option("--organization", help="Make the person a member of this organization.")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="Their part in it.  [default: member]")
def create_user(name: str, email: str, password_stdin: bool, organization: str | None, role: str | None) -> None:
    """Make an account."""
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


@organization_commands.command("create")
@click.argument("name")
def create_organization(name: str) -> None:
    """Make an organization; give it an owner with `flask user create --organization NAME --role owner`."""
    try:
        organizations.create_organization(name)
    except LockstepError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Created the organization {name}.")


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


@click.command("doctor")
@with_appcontext
def examine() -> None:
    """Check everything that Lockstep needs, and say what to do. Exit code 1 when there is a problem."""
    colours = {doctor.Status.OK: "green", doctor.Status.WARNING: "yellow", doctor.Status.PROBLEM: "red"}
    problems = 0
    for finding in doctor.examine():
        problems += finding.status is doctor.Status.PROBLEM
        status = click.style(f"{finding.status:<8}", fg=colours[finding.status])
        click.echo(f"{status} {finding.subject:<12} {finding.detail}")
        if finding.advice:
            click.echo(f"{'':<22}→ {finding.advice}")
    if problems:
        sys.exit(1)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt="Again")
    return answer
