"""The table that is printed at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.evidence import Evidence

if TYPE_CHECKING:
    from tests.chaos.driver import Driver

#: Problems of one check that are printed; all are in the kept folder's evidence.
MOST = 12


def table(driver: Driver, evidence: Evidence, problems: dict[str, list[str]]) -> str:
    """What was done how often, what became of the runs, and what holds."""
    lines = ["", "Mischief"]
    lines += _counted(driver.mischief.did)
    lines += ["", "People"]
    lines += _counted(driver.diary.did)
    ended = Counter(f"{run.status}{_why(run.error, run.status)}" for run in evidence.runs)
    lines += ["", f"Runs ({len(evidence.runs)})"]
    lines += _counted(ended)
    adopted = sum("another one goes on from here" in line for run in evidence.runs for p in run.phases.values()
                  for line in p.own)  # fmt: skip
    whole = {
        "phases taken over": adopted,
        "applies that created something": len({line.split()[0] for line in evidence.world}),
        "resources created": len(evidence.world),
        "state versions": len(evidence.states),
        "lines of logs": sum(p.log.count("\n") for run in evidence.runs for p in run.phases.values()),
        "answers 5xx or none, while something was away": len(evidence.answers),
        "longest stand-still in s": round(driver.watch.slowest),
        "pages asked why nothing moved, and said it": len(driver.watch.said),
        **{f"seconds to {name}": round(seconds) for name, seconds in driver.took.items()},
    }
    lines += ["", "In all"]
    lines += [f"  {count:>7,}  {name}" for name, count in whole.items()]
    if evidence.named_workdirs:
        lines += ["", "Working directories that hold an unsaved state, as the workers say"]
        lines += [f"  {name}" for name in evidence.named_workdirs]
    lines += ["", "Checks"]
    for title, found in problems.items():
        lines.append(f"  {'FAIL' if found else 'ok  '}  {title}")
        lines += [f"        {problem}" for problem in found[:MOST]]
        if len(found) > MOST:
            lines.append(f"        … and {len(found) - MOST} more")
    return "\n".join(lines) + "\n"


def _counted(counts: Counter[str]) -> list[str]:
    return [f"  {count:>7,}  {name}" for name, count in sorted(counts.items()) if count]


def _why(error: str, status: str) -> str:
    if status not in ("errored", "interrupted"):
        return ""
    return f": {error[:70]}"
