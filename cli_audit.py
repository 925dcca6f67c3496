"""Commands for the chain of audit events: `flask audit head`, `verify`, `take-over`."""

from __future__ import annotations

import sys
from typing import IO

import click
from flask.cli import AppGroup

from extensions import db
from services import audit_chain
from services.errors import Conflict
from services.storage import key_check
from services.storage.vault import Vault

audit_commands = AppGroup("audit", help="The chain of audit events.")


@audit_commands.command("head")
def head() -> None:
    """Print the newest place of the chain: note it outside of the database, for `flask audit verify --head`."""
    click.echo(audit_chain.head())


@audit_commands.command("verify")
@click.option("--head", "noted", metavar="NUMBER:DIGEST", help="A head that was noted: the chain must still have it.")
@click.option("--former-keys", type=click.File(), help="A file with keys that ENCRYPTION_KEYS no longer holds.")
def verify(noted: str | None, former_keys: IO[str] | None) -> None:
    """Check that no audit event was changed, removed, inserted or moved. Exit code 1 when one was."""
    try:
        expected = audit_chain.Head.from_text(noted) if noted else None
        former = Vault.from_text(former_keys.read()) if former_keys else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    wrong = 0
    for sentence in audit_chain.verify(expected, former):
        wrong += 1
        click.echo(sentence)
    if wrong:
        click.echo("If ENCRYPTION_KEYS lost a key since, give it with --former-keys: its events cannot be checked.")
        sys.exit(1)
    click.echo(f"The chain is whole: {audit_chain.head()}")
    if late := audit_chain.begun_late():
        click.echo(late)


@audit_commands.command("take-over")
@click.option("--yes", is_flag=True, help="Do not ask.")
def take_over(yes: bool) -> None:
    """Once, after an upgrade from a version without a chain: give the events of that time places in it."""
    found = audit_chain.older()
    db.session.rollback()  # nobody waits for the answer
    if found.first is None or found.last is None:
        click.echo("No event is older than the chain and without a place. Nothing was changed.")
        return
    days = f"{found.first:%Y-%m-%d %H:%M} to {found.last:%Y-%m-%d %H:%M} UTC"
    click.echo(f"{found.number} events of {days} are older than the chain. They are signed as they stand now:")
    click.echo("whether somebody changed or wrote them before cannot be told afterwards.")
    if not yes:
        click.confirm("Take them over", abort=True)
    try:
        key_check.prove()
        number = audit_chain.take_over()
    except (Conflict, key_check.WrongKeys) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Took over {number} events: {audit_chain.head()}")
