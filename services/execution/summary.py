"""The attributes of a plan for its page, read with ``terraform show -json`` once the plan is finished."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

from sqlalchemy import update

from extensions import db
from models import Run
from policy import plan_summary
from services.execution import release, terraform
from services.execution.steady import steadily
from services.execution.work import Work

log = logging.getLogger(__name__)

#: ``terraform show -json`` starts the providers, which takes seconds; it may not take minutes.
SHOW_SECONDS = 300


def summarize(work: Work, *, counted: bool) -> None:
    """Attributes of the plan, masked by terraform's own masks and by the secrets of the run.

    It follows by itself; nothing waits for it.

    Whatever goes wrong here ends without a trace but a line in the worker's log: the plan is finished.
    """
    values: dict[str, Any] = {"summary": {"unavailable": True}}
    try:
        if work.terraform is None or release.asked():
            raise terraform.TerraformMissing("There is no time for it, or no terraform.")
        work.workdir.mark_read()  # the phase is over, but its directory is still needed
        answer = terraform.capture(
            work.terraform,
            ["show", "-json", str(work.workdir.plan_path)],
            cwd=work.workdir.cwd,
            env=work.show_environment,
            timeout=SHOW_SECONDS,
            aside=True,  # an apply that is confirmed at once comes first
            sandbox=work.sandbox,
        )
        # What only Lockstep knows to be secret, terraform's masks leave standing.
        summary = plan_summary.summarize(work.redactor.hide(json.loads(answer)))
        values = {"summary": summary.to_json()}
        if not counted:
            values["counts"] = asdict(summary.counts)
    except Exception as error:
        log.warning("run %s: no attributes of its plan: %s", work.run_id, type(error).__name__)

    def _keep() -> None:
        db.session.execute(update(Run).where(Run.id == work.run_id).values(**values))
        db.session.commit()

    steadily(_keep)
