"""PostgreSQL as a server's database: what passes by itself is one kind of error, whatever class the driver gives it."""

from __future__ import annotations

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError

#: SQLSTATEs that psycopg puts among the internal errors, and that end with a new connection or a new transaction:
#: a server that became, or still is, a standby; and transactions that a time-out of the server's own has ended.
#: The shutdowns (57P01 to 57P05), deadlocks (40P01) and serialization failures (40001) are OperationalErrors already.
_READ_ONLY = "25006"
_PASSING = frozenset({_READ_ONLY, "25P03", "25P04"})


class PassingError(OperationalError):
    """The database is away for a while, for whoever handles an :class:`OperationalError`."""


def install(engine: Engine) -> None:
    """Tell those errors of an engine as what they are; other databases are left alone."""
    if engine.dialect.name != "postgresql":
        return

    @event.listens_for(engine, "handle_error")
    def _handle(context: ExceptionContext) -> PassingError | None:
        sqlstate, error = getattr(context.original_exception, "sqlstate", None), context.sqlalchemy_exception
        if sqlstate not in _PASSING or not isinstance(error, DBAPIError):
            return None
        # The address may lead to the new primary by now; the connections in the pool would stay with the old one.
        if sqlstate == _READ_ONLY:
            context.is_disconnect = True
        return PassingError(
            error.statement,
            error.params,
            context.original_exception,
            hide_parameters=error.hide_parameters,
            connection_invalidated=context.is_disconnect,
        )
