"""What every phase would do again after its fork, done once in the worker before: a phase then begins at once.

A forked child inherits the version of terraform (asking takes as long as a small plan), the walls in its network, what
a client of AWS is made from, and the statements that SQLAlchemy has compiled for the engine (`rehearsal.py`).
"""

from __future__ import annotations

import contextlib

from flask import current_app
from sqlalchemy import select

from config import Config
from extensions import db
from models import Phase, Run
from policy.lifecycle import RunStatus
from services import states
from services.execution import network, network_rules, rehearsal, terraform
from services.execution.steady import AWAY, tell
from services.execution.walls import find_walls
from services.mfa import sts
from services.storage.sqlite import read_only

#: No row has it.
_NONE = 0


def warm_up() -> None:
    """Ask terraform for its version, make the cgroup of its commands, and have read and compiled what a phase needs.

    Nothing here may fail a start.
    """
    config: Config = current_app.config["LOCKSTEP"]
    if find_walls(config.terraform_sandbox).bwrap is not None:
        network.enclosure(network_rules.rules(config))
    with contextlib.suppress(terraform.TerraformMissing):  # the phase says so
        terraform.version(terraform.locate(config.terraform_bin))
    sts.read_descriptions()
    with current_app._get_current_object().app_context():
        reading = read_only.set(True)
        try:
            if not rehearsal.rehearse():
                _compile()
        except AWAY as error:
            tell(error)
        finally:
            db.session.remove()
            read_only.reset(reading)


def _compile() -> None:
    """The queries that join half a dozen tables, with no row to find."""
    for model in (Phase, Run):
        db.session.get(model, _NONE)
        db.session.get(model, _NONE, populate_existing=True)
    # As a phase reaches its run, and a run its phases.
    phase = Phase(id=_NONE, run_id=_NONE)
    run = Run(id=_NONE, environment_id=_NONE)
    for made in (phase, run):
        db.session().enable_relationship_loading(made)
    _ = phase.run, run.phases
    waiting = select(Run).where(Run.environment_id == _NONE, Run.status == RunStatus.PENDING)
    db.session.scalar(waiting.order_by(Run.number).limit(1))
    states.latest(_NONE)
    db.session.rollback()
