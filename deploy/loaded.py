"""The application, loaded once by the launcher for the processes that it forks: `make run` starts no Python but one.

They share its memory, and a process that has to be started again is there at once. Each of the functions below is what
one of them does, to its end; its return value is the exit code.
"""

from __future__ import annotations

import gc
import sys

from flask import Flask
from setproctitle import getproctitle
from sqlalchemy.orm import configure_mappers

import app
from config import Config

_application: Flask | None = None


def load(config: Config) -> None:
    """Build it. No connection is open afterwards."""
    global _application
    # A web server alone has no use for them.
    import worker  # noqa: F401
    from deploy import prepare  # noqa: F401

    _application = app.create_app(config, migrations=False)
    configure_mappers()  # else each fork does, at its first query
    # What is here now stays: a collection in a fork would touch it all, and so copy its pages.
    gc.collect()
    gc.freeze()
    # gunicorn and RQ say in theirs what a process is. The place is found while the environment is as it was given.
    getproctitle()


def rehearse() -> None:
    """What the workers read and compile before their first phase, once for all of them; no connection is opened."""
    from services.execution import rehearsal
    from services.mfa import sts

    sts.read_descriptions()
    with application().app_context():
        rehearsal.rehearse()
    gc.collect()
    gc.freeze()


def application() -> Flask:
    """The one that was loaded; a new one where this process is no fork of the launcher's."""
    return _application or app.create_app(migrations=False)


def tables() -> int:
    """Bring the tables up to date."""
    from deploy import prepare

    return prepare.tables(application())


def web() -> int:
    """Serve pages."""
    from gunicorn.app.wsgiapp import WSGIApplication  # the web server's alone

    sys.argv = ["gunicorn", "-c", "python:deploy.gunicorn_conf"]
    WSGIApplication(prog="gunicorn").run()
    return 0


def work() -> int:
    """Execute runs, one at a time."""
    import worker

    worker.work(worker.load(application()))
    return 0
