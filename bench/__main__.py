"""`python -m bench [--figures 1,4] [--write]`, from the top folder of the project; `make bench` calls it."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from bench import document, first_line, history, idle, long_log, polls, viewers, whole_run
from bench.figures import Figure, Tell

FIGURES: dict[int, Callable[[Tell], None]] = {
    1: whole_run.measure,
    2: first_line.measure,
    3: long_log.measure,
    4: polls.measure,
    5: viewers.measure,
    6: history.measure,
    7: idle.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each figure and the table; 1 when one could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the figures of docs/PERFORMANCE.md.")
    parser.add_argument("--figures", type=chosen, default=list(FIGURES), help="some of them, such as 1,4")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PERFORMANCE.md")
    options = parser.parse_args(arguments)
    # Nothing of the shell's decides how terraform or Lockstep run here.
    for name in list(os.environ):
        if name.startswith(("TF_", "AWS_")):
            del os.environ[name]
    told: list[Figure] = []
    failed: list[int] = []

    def tell(figure: Figure) -> None:
        told.append(figure)
        print(figure.line(), flush=True)

    begun = time.monotonic()
    for number in options.figures:
        try:
            FIGURES[number](tell)
        except Exception:
            traceback.print_exc()
            failed.append(number)
    print(f"\n{document.content(told)}\nTook {(time.monotonic() - begun) / 60:.1f} minutes.", flush=True)
    if failed:
        print(f"Not measured to the end: {', '.join(map(str, failed))}.", file=sys.stderr)
        return 1
    if options.write:
        document.write(told)
    return 0


def chosen(text: str) -> list[int]:
    """The numbers in "1,4"."""
    numbers = [int(part) for part in text.split(",")]
    if not set(numbers) <= set(FIGURES):
        raise ValueError(text)
    return numbers


if __name__ == "__main__":
    sys.exit(main())
