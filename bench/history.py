"""Figure 6: an environment with a long history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import insert

from bench import stack
from bench.figures import Figure, Tell, median, spread
from bench.long_log import ended_run
from bench.stack import Stack
from extensions import db
from models import Environment, Phase, PhaseStatus, Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel, PhaseKind
from services import clock
from tests import factories

RUNS, ASKED, BATCH = 100_000, 60, 10_000

#: Runs of the database that it is compared with: one page of the list.
FEW = 25

_SMALL = {"WEB_PROCESSES": "1", "WORKERS": "1"}


def measure(tell: Tell) -> None:
    """6a the list, 6b a run's page: two installations side by side, asked in turn."""
    with stack.running(**_SMALL) as empty, stack.running(**_SMALL) as full:
        places = {"empty": _fill(empty, FEW), "full": _fill(full, RUNS)}
        people = {"empty": empty.person(), "full": full.person()}
        pages = (("6a", "the list of runs", stack.path("old")), ("6b", "the page of a run", ""))
        for figure, name, same in pages:
            times: dict[str, list[float]] = {"empty": [], "full": []}
            for _ in range(ASKED):
                for which, person in people.items():
                    times[which].append(person.timed(same or places[which])[0] * 1000)
            ratios = [a / b for a, b in zip(times["full"], times["empty"], strict=True)]
            what = f"{name}, with {RUNS:,} runs in the environment over a database with {FEW}"
            value = median(times["full"]) / median(times["empty"])
            detail: dict[str, object] = {f"{which}_ms": round(median(found), 2) for which, found in times.items()}
            tell(Figure(figure, what, value, "×", 1.3, n=ASKED, spread=spread(ratios), detail=detail))


def _fill(running: Stack, count: int) -> str:
    """So many runs that ended, the newest as the factories make one; answers its address."""
    with running.inside():
        found = factories.environment("old")
        configuration = factories.configuration(found)
        for first in range(1, count, BATCH):
            _insert(found, configuration.id, first, min(first + BATCH, count))
        found.run_counter = count - 1
        db.session.commit()
        _, place = ended_run("old")
        return place


def _insert(of: Environment, configuration_id: int, first: int, end: int) -> None:
    """The runs with the numbers from ``first`` to before ``end``; ids are numbers, nothing else is in the tables."""
    at, alice = clock.now(), factories.person("alice").id
    runs: list[dict[str, Any]] = []
    phases: list[dict[str, Any]] = []
    for number in range(first, end):
        made = at - timedelta(minutes=RUNS - number)
        values = {"id": number, "number": number, "environment_id": of.id, "status": RunStatus.APPLIED}
        values |= {"mfa_level": MfaLevel.NEVER, "configuration_id": configuration_id, "message": "Add a subnet"}
        runs.append(values | {"created_by_id": alice, "created_at": made, "finished_at": made})
        for kind in PhaseKind:
            ended = {"status": PhaseStatus.FINISHED, "started_at": made, "finished_at": made, "log_packed_at": made}
            phases.append({"run_id": number, "kind": kind, "actor_id": alice, **ended})
    db.session.execute(insert(Run), runs)
    db.session.execute(insert(Phase), phases)
    db.session.commit()
