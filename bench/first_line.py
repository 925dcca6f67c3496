"""Figure 2: from the code to terraform's first line in the page, and how old lines are when they reach it."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from bench import shell, stack
from bench.figures import Figure, Tell, median, quantile, spread
from bench.person import Page, Person
from bench.stack import Stack
from policy.mfa import MfaLevel
from tests.support import lab
from tests.support.aws import Aws, aws_running
from tests.worker.configurations import ONE, hcl

ROUNDS, LINES, RATE = 12, 2000, 50

#: The first words of `terraform init`.
FIRST = "Initializing the backend"

_PRINTED = re.compile(r"\(local-exec\):(?:<[^>]*>|\s)*at ([0-9]+\.[0-9]+)")

#: The first code loads what the web server needs for STS: not counted.
WARM = 1


def measure(tell: Tell) -> None:
    """2a the first line, 2b and 2c the age of lines at 50 a second, as the page polls."""
    with (
        tempfile.TemporaryDirectory(prefix="lb-aws-") as name,
        aws_running(Path(name) / "aws") as aws,
        stack.running(AWS_ENDPOINT_URL=aws.endpoint) as running,
    ):
        with running.inside():
            lab.aws_keys(aws)
        person = running.person()
        _first(running, person, aws, tell)
        _ages(running, person, tell)


def _first(running: Stack, person: Person, aws: Aws, tell: Tell) -> None:
    page_s: list[float] = []
    shell_s: list[float] = []
    for number in range(-WARM, ROUNDS):
        name = f"code-{number + WARM}"
        with running.inside():
            stack.environment(name, ONE, MfaLevel.PLANS_AND_APPLIES)
        took = _code_to_line(running, person, name, aws, wait=(number % 4) * 0.7)
        with shell.folder(ONE) as there:
            printed = there.first_byte(shell.INIT)
        if number >= 0:
            page_s.append(took)
            shell_s.append(printed)
    more = [page - printed for page, printed in zip(page_s, shell_s, strict=True)]
    what = "submit of a code → first line of terraform in the page, more than terraform takes to print it"
    detail: dict[str, object] = {"page_s": round(median(page_s), 3), "terraform_s": round(median(shell_s), 3)}
    detail["p95"] = round(quantile(more, 0.95), 3)
    tell(Figure("2a", what, median(more), "s", 0.5, n=len(more), spread=spread(more), detail=detail))


def _code_to_line(running: Stack, person: Person, environment: str, aws: Aws, wait: float) -> float:
    """Open the page, type the code somewhere between two polls, and poll as the page does."""
    place = person.post(stack.path(environment))
    page = Page(person, place)
    time.sleep(wait)
    code = aws.code()
    begun = time.monotonic()
    text = page.press("authenticate", token=code)
    while FIRST not in text:
        text = page.next_poll()
        assert time.monotonic() - begun < 30
    took = time.monotonic() - begun
    running.wait_person(running.run_id(place))
    person.post(f"{place}/discard")
    return took


def _ages(running: Stack, person: Person, tell: Tell) -> None:
    with running.inside():
        stack.environment("lines", printing(LINES, RATE))
    place = person.post(stack.path("lines"))
    run_id = running.run_id(place)
    running.wait_person(run_id)
    page = Page(person, place)
    page.press("confirm")
    ages: list[float] = []
    while page.every:
        text = page.next_poll()
        now = time.time()
        ages += [now - float(at) for at in _PRINTED.findall(text)]
    running.wait(run_id, "applied")
    assert len(ages) == LINES, f"{len(ages)} of {LINES} lines came with polls"
    said = f"age of a line when it reaches the page, at {RATE} lines a second"
    for figure, share, most in (("2b", 0.5, 0.7), ("2c", 0.95, 1.3)):
        what = f"{said}: p{share * 100:.0f}"
        tell(Figure(figure, what, quantile(ages, share), "s", most, n=len(ages), spread=spread(ages)))


def printing(lines: int, rate: int, work: float = 0.0) -> str:
    """A resource that prints so many lines, each with the time, and computes ``work`` seconds for each of them."""
    script = (
        "import time\n"
        "begun = time.monotonic()\n"
        f"for number in range({lines}):\n"
        f"    time.sleep(max(begun + number / {rate} - time.monotonic(), 0))\n"
        "    worked = time.thread_time()\n"
        f"    while time.thread_time() - worked < {work}: pass\n"
        "    print('at %.4f' % time.time(), flush=True)\n"
    )
    command = f"{shlex.quote(sys.executable)} -I -S -c {shlex.quote(script)}"
    return f'resource "terraform_data" "it" {{\n  provisioner "local-exec" {{\n    command = {hcl(command)}\n  }}\n}}\n'
