"""What must hold after the chaos. Each check answers a sentence for everything that does not; [] is good.

Pure: it sees nothing but the evidence, so that tests can hand it a doctored one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from services.execution.disk import SAID
from tests.chaos.evidence import WORLD, Evidence, Phase, Run
from tests.support import printed

FINAL = ("planned_and_finished", "applied", "discarded", "canceled", "errored", "interrupted")
WAITING = ("pending", "awaiting_plan_authentication", "awaiting_confirmation", "awaiting_apply_authentication")
_LINE = re.compile(r"line (\S+) (\S+) (\d+) of (\d+)\.")
_OUTPUT = re.compile(r'"output (\S+) (\d+) of (\d+)",$')
_DONE = re.compile(r"^terraform_data\.(\w+): Creation complete after \S+ \[id=([^\]]+)\]$")
_CUT = re.compile(r"\x1b(\[[0-9;]*)?")


def _phases(evidence: Evidence, kind: str = "") -> Iterator[tuple[Run, Phase]]:
    for run in evidence.runs:
        for phase in run.phases.values():
            if kind in ("", phase.kind):
                yield run, phase


def _world(evidence: Evidence) -> dict[int, list[re.Match[str]]]:
    """Phase id → the lines that its terraform wrote."""
    found: dict[int, list[re.Match[str]]] = defaultdict(list)
    for line in evidence.world:
        if match := WORLD.fullmatch(line):
            found[int(match["phase"])].append(match)
    return found


def _disk_was_full(phase: Phase) -> bool:
    return SAID in phase.own


def _nobody_saw_the_full_disk(evidence: Evidence, phase: Phase) -> bool:
    """Lines that terraform could not write while its worker was gone are told by nobody."""
    full = any(window["what"] == "disk" for window in evidence.windows)
    return full and any("goes on from here" in line for line in phase.own)


def _completed(phase: Phase) -> dict[str, str]:
    """Resource → id, as terraform reported them complete."""
    return {found[1]: found[2] for line in phase.log.splitlines() if (found := _DONE.match(line.rstrip()))}


def applied_at_most_once(evidence: Evidence) -> list[str]:
    """In the world and in the log; and an apply that is said to be finished did happen."""
    wrong = [
        f"the world file has a line that nobody understands: {x}" for x in evidence.world if not WORLD.fullmatch(x)
    ]
    world = _world(evidence)
    for run, phase in _phases(evidence):
        lines = world.get(phase.id, [])
        pids = {(line["folder"], line["pid"]) for line in lines}
        names = [line["name"] for line in lines]
        if phase.kind == "plan" and lines:
            wrong.append(f"{run.name}: its plan created {names}")
        if len(pids) > 1 or len(names) != len(set(names)):
            wrong.append(f"{run.name}: its apply ran more than once: {sorted(pids)}, {names}")
        if phase.log.count("Apply complete!") > 1:
            wrong.append(f"{run.name}: its log says twice that the apply is complete")
        if lines and phase.started_at is None:
            wrong.append(f"{run.name}: something was created, but its apply never began: {names}")
        missing = sorted(set(_completed(phase)) - set(names))
        if missing:
            wrong.append(f"{run.name}: said to be created, but the world has nothing of {missing}")
        if phase.kind == "apply" and run.status == "applied" and not _disk_was_full(phase):
            if phase.log.count("Apply complete!") != 1:
                wrong.append(f"{run.name}: is applied, but its log does not say so")
            if set(names) != set(_completed(phase)):
                wrong.append(
                    f"{run.name}: is applied; created {sorted(names)}, its log says {sorted(_completed(phase))}"
                )
        if phase.kind == "apply" and run.status in ("discarded", "planned_and_finished", *WAITING) and lines:
            wrong.append(f"{run.name}: is {run.status}, but created {names}")
    return wrong


def ended_once(evidence: Evidence) -> list[str]:
    """The audit log knows one confirmation at most, and exactly one end of a run that has ended."""
    wrong = []
    for run in evidence.runs:
        ends = [action for action in run.actions if action.removeprefix("run.") in _ENDS]
        if run.status in FINAL and len(ends) != 1:
            wrong.append(f"{run.name}: is {run.status}, its ends in the audit log are {ends}")
        if run.status not in FINAL and ends:
            wrong.append(f"{run.name}: is {run.status}, but the audit log says {ends}")
        if run.actions.count("run.confirm") > 1:
            wrong.append(f"{run.name}: was confirmed {run.actions.count('run.confirm')} times")
    return wrong


_ENDS = ("applied", "planned_and_finished", "discard", "cancel", "canceled", "errored", "interrupted", "give_up")


def gates_held(evidence: Evidence) -> list[str]:
    """A gated phase that ran has an accepted attempt for each start; an apply without a gate has a confirmation."""
    wrong = []
    world = _world(evidence)
    for run, phase in _phases(evidence):
        gated = run.level == "plans and applies" or (run.level == "applies only" and phase.kind == "apply")
        starts = phase.log.count("Initializing the backend...")
        ran = bool(starts or world.get(phase.id)) or phase.status == "finished"
        if not ran:
            continue
        if gated and not phase.accepted:
            wrong.append(f"{run.name}: its {phase.kind} ran without an accepted code")
        elif gated and phase.started_at and phase.accepted[0] > phase.started_at:
            wrong.append(f"{run.name}: its {phase.kind} ran before its code was accepted")
        elif gated and starts > len(phase.accepted):
            wrong.append(f"{run.name}: its {phase.kind} was begun {starts} times with {len(phase.accepted)} codes")
        if phase.kind == "apply" and not gated and "run.confirm" not in run.actions:
            wrong.append(f"{run.name}: was applied without a confirmation")
    return wrong


def logs_whole(evidence: Evidence) -> list[str]:
    """Numbered lines without gap, repeat or mix: all of them where terraform ended by itself, else the first ones."""
    wrong = []
    for run, phase in _phases(evidence):
        name = f"the {phase.kind} log of {run.name}"
        if not phase.gapless:
            wrong.append(f"{name}: its chunks do not join")
        if _disk_was_full(phase) or _nobody_saw_the_full_disk(evidence, phase):
            continue
        done = _completed(phase)
        numbers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        outputs: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for resource, printed_line in printed.lines(phase.log, _LINE):
            if resource != f"terraform_data.{printed_line[2]}":
                wrong.append(f"{name}: lines are mixed: {printed_line[0]} of {resource}")
            numbers[printed_line[2]].append((int(printed_line[3]), int(printed_line[4])))
        for line in phase.log.splitlines():
            if (found := _OUTPUT.search(line)) and "-" not in line.partition('"')[0]:
                outputs[found[1]].append((int(found[2]), int(found[3])))
        for resource, seen in numbers.items():
            wrong += _in_order(f"{name}, {resource}", seen, whole=resource in done)
        ended = phase.status == "finished"
        for nonce, seen in outputs.items():
            wrong += _in_order(f"{name}, output {nonce}", seen, whole=ended)
        wrong += [f"{name}: {resource} is complete without a line" for resource in done if resource not in numbers]
        told = "Terraform will perform the following" in phase.log or "Changes to Outputs" in phase.log
        if phase.kind == "plan" and phase.exit_code == 2 and not told:
            wrong.append(f"{name}: found changes, but does not tell them")
    return wrong


def _in_order(where: str, seen: list[tuple[int, int]], *, whole: bool) -> list[str]:
    got = [number for number, _ in seen]
    if got != list(range(1, len(got) + 1)):
        return [f"{where}: its lines are {got[:60]}"]
    if whole and len(got) != seen[0][1]:
        return [f"{where}: {len(got)} of {seen[0][1]} lines"]
    return []


def pages_show_logs(evidence: Evidence) -> list[str]:
    """What the page shows is what the raw log has."""
    wrong = []
    for run, phase in _phases(evidence):
        # A full disk may cut a colour in two; the page shows none.
        whole = _CUT.sub("", phase.log.replace("\r", ""))
        raw = [line.rstrip() for line in whole.splitlines()]
        # Lockstep's own lines have a symbol before them.
        shown = [line.strip() if line.strip() in phase.own else line.rstrip() for line in phase.rendered.splitlines()]
        if raw != shown:
            first = next((n for n, pair in enumerate(zip(raw, shown, strict=False)) if pair[0] != pair[1]), -1)
            differ = f"{raw[first]!r} and {shown[first]!r}" if first >= 0 else f"{len(raw)} and {len(shown)} lines"
            wrong.append(f"the {phase.kind} log of {run.name}: raw and page differ: {differ}")
    return wrong


def states_kept(evidence: Evidence) -> list[str]:
    """What an apply reported as complete is in the state that its run stored; where terraform obeyed a cancel, also
    what it had begun.
    """
    wrong = []
    world = _world(evidence)
    stored = {state.run_id: state for state in evidence.states}
    for run, phase in _phases(evidence, "apply"):
        done = _completed(phase)
        state = stored.get(run.id)
        kept = [name for name in evidence.named_workdirs if name.startswith(f"phase-{phase.id}-")]
        # What an owner gave up on stays where it is, once another run has the environment; else the run says where.
        if kept and "run.give_up" not in run.actions and kept[0] not in run.error:
            wrong.append(f"{run.name} ({run.status}): its state is in {kept[0]}, which its page does not say")
        obeyed = run.status == "canceled" and phase.exit_code in (0, 1) and "run.force" not in run.actions
        if obeyed and not kept and not _disk_was_full(phase):
            begun = {f"terraform_data.{line['name']}" for line in world.get(phase.id, [])}
            if lacking := sorted(begun - set(state.resources | state.tainted if state else ())):
                wrong.append(f"{run.name}: was canceled when {lacking} were begun, and its state lacks them")
        if not done or kept:
            continue
        if state is None:
            wrong.append(f"{run.name} ({run.status}): created {sorted(done)}, but stored no state")
            continue
        lost = [name for name, id_ in done.items() if state.resources.get(f"terraform_data.{name}") != id_]
        if lost:
            full = ", the disk was full" if _disk_was_full(phase) else ""
            wrong.append(f"{run.name} ({run.status}{full}): its state (serial {state.serial}) lacks {lost}")
    return wrong


def serials_rise(evidence: Evidence) -> list[str]:
    """From one version of a state to the next."""
    wrong = []
    for before, after in zip(evidence.states, evidence.states[1:], strict=False):
        if before.environment == after.environment and (
            after.serial <= before.serial or after.lineage != before.lineage or after.number != before.number + 1
        ):
            wrong.append(
                f"{after.environment}: version {after.number} has serial {after.serial} after {before.serial}, "
                f"lineage {after.lineage} after {before.lineage}"
            )
    return wrong


def nothing_stuck(evidence: Evidence) -> list[str]:
    """No run stood still without a word, and in the end each has ended."""
    wrong = list(evidence.stuck)
    wrong += [f"{run.name}: is still {run.status}" for run in evidence.runs if run.status not in FINAL]
    return wrong + [f"{name}: is held by a run although all have ended" for name in evidence.active]


def nothing_left(evidence: Evidence) -> list[str]:
    """No temporary credentials in Redis, and no working directory but those that Lockstep itself names."""
    wrong = [f"Redis still has {key}" for key in evidence.redis_keys if key.startswith("lockstep:handoff:")]
    left = sorted(set(evidence.workdirs) - set(evidence.named_workdirs))
    return wrong + [f"the working directory {name} is left" for name in left]


def nothing_told(evidence: Evidence) -> list[str]:
    """No secret in logs of processes, in the database, in Redis, in spools."""
    return list(evidence.secrets)


#: What may be away for an answer of this status, and the method it may meet.
_EXCUSES = {0: ("web", "web process"), 503: ("redis",)}


def answers_good(evidence: Evidence) -> list[str]:
    """No 5xx and no silence, except while what was killed was away."""
    wrong = []
    for answer in evidence.answers:
        if 0 < answer["status"] < 500:
            continue
        excused = any(
            window["what"] in _EXCUSES.get(answer["status"], ())
            and window["began"] <= answer["ended"]
            and answer["began"] <= window["ended"]
            for window in evidence.windows
        )
        if not excused:
            wrong.append(
                f"at {answer['began']:.1f} to {answer['ended']:.1f} s, {answer['method']} {answer['path']}: "
                f"{answer['status'] or 'no answer'} {answer['note']}"
            )
    return wrong


CHECKS: dict[str, Callable[[Evidence], list[str]]] = {
    "each apply ran zero or one time": applied_at_most_once,
    "each run ended once": ended_once,
    "never without its gate": gates_held,
    "logs are complete and in order": logs_whole,
    "pages show what the raw logs have": pages_show_logs,
    "states hold what was created": states_kept,
    "serials never go back": serials_rise,
    "nothing is stuck, or the page says why": nothing_stuck,
    "no credentials, no working directories left": nothing_left,
    "no secret in logs, database, Redis": nothing_told,
    "no 5xx but while something was away": answers_good,
}
