"""Each check of the chaos suite passes good evidence and finds what it is there for in a doctored one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict

import pytest

from services.execution.disk import SAID
from tests.chaos import configurations, mischief, watch
from tests.chaos.checks import CHECKS
from tests.chaos.evidence import Evidence, Phase, Run, State, from_json

LINES = 4


def world(phase: int, name: str, pid: int = 77, attempt: int = 1) -> str:
    return f"/tmp/ch/h/work/phase-{phase}-{attempt}/config n1 {name} {pid}"


def apply_log() -> str:
    log = "Initializing the backend...\n"
    for name in ("r0", "r1"):
        for n in range(1, LINES + 1):
            log += f"terraform_data.{name} (local-exec): line n1 {name} {n} of {LINES}.\n"
        log += f"terraform_data.{name}: Creation complete after 1s [id=id-{name}]\n"
    return log + 'Apply complete! Resources: 2 added\n    "output n1 1 of 1",\n'


def good() -> Evidence:
    """One applied run behind a gate, one that was discarded."""
    log = apply_log()
    plan_log = "Initializing the backend...\nTerraform will perform the following actions:\n"
    applied = Run(1, "env-2", 1, "applied", "applies only", actions=["run.create", "run.authenticate", "run.applied"])
    applied.phases = {
        "plan": Phase(1, "plan", "finished", "2026-01-01T00:00:01", 2, log=plan_log, rendered=plan_log),
        "apply": Phase(
            2, "apply", "finished", "2026-01-01T00:01:00", 0, ["2026-01-01T00:00:59"], log=log, rendered=log
        ),
    }
    discarded = Run(2, "env-1", 1, "discarded", "never", actions=["run.create", "run.discard"])
    discarded.phases = {"plan": Phase(3, "plan", "waiting"), "apply": Phase(4, "apply", "waiting")}
    states = [
        State("env-2", 1, 3, "l", None, {}),
        State("env-2", 2, 5, "l", 1, {"terraform_data.r0": "id-r0", "terraform_data.r1": "id-r1"}),
    ]
    return Evidence(runs=[applied, discarded], states=states, world=[world(2, "r0"), world(2, "r1")])


def apply_of(evidence: Evidence) -> Phase:
    return evidence.runs[0].phases["apply"]


def change_log(old: str, new: str) -> Callable[[Evidence], None]:
    def doctor(evidence: Evidence) -> None:
        phase = apply_of(evidence)
        assert old in phase.log
        phase.log = phase.rendered = phase.log.replace(old, new, 1)

    return doctor


def line(n: int) -> str:
    return f"terraform_data.r0 (local-exec): line n1 r0 {n} of {LINES}.\n"


def was(evidence: Evidence, status: str, *actions: str) -> None:
    evidence.runs[0].status, evidence.runs[0].actions = status, list(actions)


def lost_with_a_cancel(evidence: Evidence) -> None:
    was(evidence, "canceled", "run.canceled")
    evidence.states.clear()


def canceled_too_early(evidence: Evidence) -> None:
    """The run is over, and its terraform still makes the second resource."""
    was(evidence, "canceled", "run.canceled")
    change_log("terraform_data.r1: Creation complete after 1s [id=id-r1]\nApply complete!", "")(evidence)
    evidence.states[1].resources.pop("terraform_data.r1")


def answered(status: int, at: float) -> Callable[[Evidence], None]:
    def doctor(evidence: Evidence) -> None:
        evidence.windows = [{"what": "redis", "began": 10.0, "ended": 20.0}]
        answer = {"began": at, "ended": at + 1, "method": "GET", "path": "/", "status": status, "note": ""}
        evidence.answers = [answer]

    return doctor


ONCE, ENDED, GATE, LOGS, PAGES, STATES, SERIALS, STUCK, LEFT, TOLD, ANSWERS = CHECKS
DOCTORED: dict[str, tuple[str, Callable[[Evidence], object]]] = {
    "a second apply": (ONCE, lambda e: e.world.append(world(2, "r0", 78, 2))),
    "a second apply in the same folder": (ONCE, lambda e: e.world.append(world(2, "r2", 78))),
    "the plan created something": (ONCE, lambda e: e.world.append(world(1, "r0"))),
    "a discarded run created something": (ONCE, lambda e: e.world.append(world(4, "r0"))),
    "applied without the world": (ONCE, lambda e: e.world.clear()),
    "told twice": (ONCE, change_log("Apply complete!", "Apply complete! Apply complete!")),
    "a torn line": (ONCE, lambda e: e.world.append("/tmp/ch/h/wo")),
    "ended twice": (ENDED, lambda e: e.runs[0].actions.append("run.errored")),
    "ended silently": (ENDED, lambda e: e.runs[0].actions.remove("run.applied")),
    "confirmed twice": (ENDED, lambda e: e.runs[0].actions.extend(["run.confirm"] * 2)),
    "no code": (GATE, lambda e: apply_of(e).accepted.clear()),
    "the code came later": (GATE, lambda e: apply_of(e).accepted.__setitem__(0, "2026-01-01T00:01:30")),
    "begun twice with one code": (GATE, change_log("Initializing", "Initializing the backend...\nInitializing")),
    "no confirmation": (GATE, lambda e: setattr(e.runs[0], "level", "never")),
    "a lost line": (LOGS, change_log(line(2), "")),
    "a lost end": (LOGS, change_log(line(4), "")),
    "a repeated line": (LOGS, change_log(line(2), line(2) * 2)),
    "lines that changed places": (LOGS, change_log(line(2) + line(3), line(3) + line(2))),
    "mixed lines": (LOGS, change_log("r0 (local-exec): line n1 r0 2", "r1 (local-exec): line n1 r0 2")),
    "a gap between chunks": (LOGS, lambda e: setattr(apply_of(e), "gapless", False)),
    "a plan that tells no changes": (LOGS, lambda e: setattr(e.runs[0].phases["plan"], "log", "")),
    "the page lacks a line": (PAGES, lambda e: setattr(apply_of(e), "rendered", apply_log().replace(line(2), ""))),
    "a lost resource": (STATES, lambda e: e.states[1].resources.pop("terraform_data.r0")),
    "an older resource": (STATES, lambda e: e.states[1].resources.update({"terraform_data.r0": "before"})),
    "a lost state of a canceled apply": (STATES, lost_with_a_cancel),
    "a cancel that did not wait for terraform": (STATES, canceled_too_early),
    "a state kept somewhere, and not said": (STATES, lambda e: e.named_workdirs.append("phase-2-1")),
    "a serial that went back": (SERIALS, lambda e: setattr(e.states[1], "serial", 2)),
    "another lineage": (SERIALS, lambda e: setattr(e.states[1], "lineage", "m")),
    "a run that never ends": (STUCK, lambda e: was(e, "applying")),
    "an environment that stays held": (STUCK, lambda e: e.active.append("env-2")),
    "a silent page": (STUCK, lambda e: e.stuck.append("env-2 #1 did not move")),
    "credentials": (LEFT, lambda e: e.redis_keys.append("lockstep:handoff:2")),
    "a working directory": (LEFT, lambda e: e.workdirs.append("phase-2-1")),
    "a secret": (TOLD, lambda e: e.secrets.append("a typed code stands in web.log")),
    "a fault of the server": (ANSWERS, answered(500, 15)),
    "not available, for no reason": (ANSWERS, answered(503, 30)),
}


def test_good_evidence_passes() -> None:
    assert {title: check(good()) for title, check in CHECKS.items()} == {title: [] for title in CHECKS}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_doctored_one_does_not(name: str) -> None:
    title, doctor = DOCTORED[name]
    evidence = good()
    doctor(evidence)
    assert CHECKS[title](evidence)


def test_what_was_away_and_what_lockstep_says_itself_is_no_fault() -> None:
    evidence = good()
    answered(503, 15)(evidence)
    evidence.workdirs = evidence.named_workdirs = ["phase-2-1"]
    assert not CHECKS[ANSWERS](evidence) and not CHECKS[LEFT](evidence)
    change_log(line(4), "")(evidence)
    apply_of(evidence).own.append(SAID)
    assert not CHECKS[LOGS](evidence), "a full disk ends the log, and the log says so"


def test_evidence_survives_being_kept() -> None:
    assert from_json(json.dumps(asdict(good()))) == good()


def test_a_seed_gives_the_same_mischief_and_the_same_configurations() -> None:
    plans = [mischief.plan(seed, 600) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert {deed.kind for plan in plans for deed in plan} == set(mischief.KINDS)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            '<div class="notice notice-warning" id="worker" role="status"><i></i><div><p>No sign.</p></div></div>',
            "No sign.",
        ),
        ('<div id="worker" hidden></div><p class="meta">The plan starts as soon as a worker is free.</p>', "The plan"),
        ('<div id="worker" hidden></div><p class="meta">Planned at 10:00</p>', ""),
    ],
)
def test_the_reason_on_a_page(page: str, said: str) -> None:
    assert watch.reason(page).startswith(said) and bool(watch.reason(page)) == bool(said)


@pytest.mark.parametrize(
    ("status", "locked", "active", "said"),
    [
        ("apply_queued", None, 1, False), ("apply_queued", 2, 1, True), ("plan_queued", 2, 1, True),
        ("applying", 2, 1, False), ("pending", 2, None, True), ("pending", None, 7, True),
        ("pending", None, None, False), ("awaiting_confirmation", None, 1, True),
    ],
)  # fmt: skip
def test_who_waits_for_what_is_said_is_not_stuck(
    status: str, locked: int | None, active: int | None, said: bool
) -> None:
    assert watch.waits({"status": status, "locked": locked, "active": active}) is said


def test_a_configuration_is_one_file_that_names_the_world() -> None:
    text = configurations.make(random.Random(3), "n7", configurations.Place("/w", "http://127.0.0.1:1"))
    assert ">> '/w'" in text and '"output n7 ${n} of ' in text and configurations.pack(text)
