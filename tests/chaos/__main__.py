"""`python -m tests.chaos --seconds N --seed S --environments M`: mischief, settling, checks, a table.

Exit status 0 when every check passed. Otherwise the folder with all logs is kept, and its path printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.chaos import report
from tests.chaos.checks import CHECKS
from tests.chaos.driver import Driver


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=600, help="how long the mischief goes on")
    parser.add_argument("--seed", type=int, default=None, help="the plan of the mischief and of the people's wishes")
    parser.add_argument("--environments", type=int, default=6)
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs in any case")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    sys.stdout.write(f"Seed {seed}, {options.seconds:.0f} s, {options.environments} environments\n")
    sys.stdout.flush()
    began = time.monotonic()
    driver = Driver(seed, options.environments, options.people)
    failed = True
    try:
        driver.run(options.seconds)
        evidence = driver.evidence()
        evidence.save(driver.stack.folder / "evidence.json")
        problems = {title: check(evidence) for title, check in CHECKS.items()}
        failed = any(problems.values())
        text = report.table(driver, evidence, problems)
        text += f"\nSeed {seed}: {'FAILED' if failed else 'passed'} after {time.monotonic() - began:.0f} s\n"
        sys.stdout.write(text)
        (driver.stack.folder / "report.txt").write_text(text)
    finally:
        driver.stack.stop()
        driver.stack.remove(keep=failed or options.keep)
        if failed or options.keep:
            sys.stdout.write(f"Logs and evidence: {driver.stack.folder}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
