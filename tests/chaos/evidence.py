"""What is there at the end: plain data, gathered by a process of its own in Lockstep's settings.

`python -m tests.chaos.evidence` prints it as JSON; tests/chaos/checks.py judges it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

#: An apply writes this for each resource that it creates: working directory, nonce, resource, terraform's pid.
WORLD = re.compile(
    r"(?P<folder>\S*/phase-(?P<phase>\d+)-(?P<attempt>\d+)/\S*) (?P<nonce>\S+) (?P<name>\S+) (?P<pid>\d+)"
)


@dataclass
class Phase:
    """``log`` is raw text without colours; ``rendered`` what the page shows of it; ``own`` Lockstep's own lines.

    ``accepted`` are the times of accepted codes (ISO 8601), ``gapless`` whether its chunks join and count as they say.
    """

    id: int
    kind: str
    status: str
    started_at: str | None = None
    exit_code: int | None = None
    accepted: list[str] = field(default_factory=list)
    log: str = ""
    own: list[str] = field(default_factory=list)
    rendered: str = ""
    gapless: bool = True


@dataclass
class Run:
    """``level`` is the MFA level; ``actions`` the audit events, oldest first."""

    id: int
    environment: str
    number: int
    status: str
    level: str
    error: str = ""
    actions: list[str] = field(default_factory=list)
    phases: dict[str, Phase] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in: env-1 #4."""
        return f"{self.environment} #{self.number}"


@dataclass
class State:
    """A state version; ``resources`` is address → id of those that are not tainted, ``tainted`` has the others'."""

    environment: str
    number: int
    serial: int
    lineage: str
    run_id: int | None
    resources: dict[str, str] = field(default_factory=dict)
    tainted: dict[str, str] = field(default_factory=dict)


@dataclass
class Evidence:
    """Everything that the checks look at."""

    runs: list[Run] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    world: list[str] = field(default_factory=list)
    redis_keys: list[str] = field(default_factory=list)
    workdirs: list[str] = field(default_factory=list)
    named_workdirs: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    windows: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))


def from_json(text: str) -> Evidence:
    """What :meth:`Evidence.save` wrote, or what this module printed."""
    found = json.loads(text)
    runs = [
        Run(**run | {"phases": {kind: Phase(**phase) for kind, phase in run["phases"].items()}})
        for run in found.pop("runs")
    ]
    return Evidence(runs=runs, states=[State(**state) for state in found.pop("states")], **found)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def gather(home: Path) -> Evidence:
    """In the present application."""
    from sqlalchemy import select

    from extensions import db
    from models import Environment
    from models import Run as RunRow
    from services import queue
    from services.storage.sqlite import read_only

    read_only.set(True)
    found = Evidence()
    for row in db.session.scalars(select(RunRow).order_by(RunRow.id)):
        found.runs.append(_run(row))
    found.states = _states()
    client = queue.connection()
    found.redis_keys = sorted(key.decode() for key in client.scan_iter("lockstep:*"))
    found.workdirs = sorted(name for name in os.listdir(home / "work") if name.startswith("phase-"))
    found.active = [row.name for row in db.session.scalars(select(Environment)) if row.active_run_id is not None]
    return found


def _run(row: Any) -> Run:
    from sqlalchemy import select

    from extensions import db
    from models import AuditEvent

    events = db.session.scalars(select(AuditEvent.action).where(AuditEvent.run_id == row.id).order_by(AuditEvent.id))
    run = Run(row.id, row.environment.name, row.number, row.status.value, row.level.value, row.error, list(events))
    run.phases = {phase.kind.value: _phase(phase) for phase in row.phases}
    return run


def _phase(row: Any) -> Phase:
    from sqlalchemy import select

    from extensions import db
    from models import MfaAttempt
    from services.storage import logs

    accepted = select(MfaAttempt.at).where(MfaAttempt.phase_id == row.id, MfaAttempt.reason == "accepted")
    phase = Phase(row.id, row.kind.value, row.status.value, _iso(row.started_at), row.exit_code)
    phase.accepted = [at.isoformat() for at in db.session.scalars(accepted.order_by(MfaAttempt.at))]
    raw, lines, end = b"", 0, 0
    for chunk in logs.since(row.id, 0, 1 << 40):
        phase.gapless = phase.gapless and chunk.offset == end and chunk.first_line == lines + (not chunk.continues)
        raw, end, lines = raw + chunk.data, chunk.end, chunk.last_line
        if chunk.tone is not None:
            phase.own.append(chunk.data.decode().rstrip("\n"))
    phase.gapless = phase.gapless and (end, lines) == (row.log_size, row.log_lines)
    phase.log = _COLOUR.sub("", raw.decode(errors="replace"))
    return phase


def _states() -> list[State]:
    from sqlalchemy import select

    from extensions import db
    from models import Environment, StateVersion
    from services.storage import blobs

    names = {row.id: row.name for row in db.session.scalars(select(Environment))}
    found = []
    for row in db.session.scalars(select(StateVersion).order_by(StateVersion.environment_id, StateVersion.number)):
        state = json.loads(blobs.get(row.blob_id))
        resources: dict[bool, dict[str, str]] = {False: {}, True: {}}
        for resource in state["resources"]:
            for instance in resource["instances"] if resource["mode"] == "managed" else ():
                if "deposed" not in instance:
                    address = f"{resource['type']}.{resource['name']}"
                    resources[instance.get("status") == "tainted"][address] = instance["attributes"]["id"]
        whole = resources[False], resources[True]
        found.append(State(names[row.environment_id], row.number, row.serial, row.lineage, row.run_id, *whole))
    return found


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def main() -> int:
    """In the settings of the chaos."""
    from app import create_app

    app = create_app()
    with app.app_context():
        json.dump(asdict(gather(app.config["LOCKSTEP"].home)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
