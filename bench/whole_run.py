"""Figure 1: a whole run, from the POST that queues it to the status applied, over the same in a shell."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import config
from bench import shell, stack
from bench.figures import Figure, Tell, median, pair_ratios, spread
from bench.person import Person
from bench.stack import Stack
from demo import mirror
from models import Category
from policy.mfa import MfaLevel
from services.execution import network, network_rules, terraform
from services.execution.sandbox import Sandbox
from services.execution.walls import find_walls
from services.execution.workdir import Workdir
from services.mfa import sts
from tests import factories
from tests.support import lab
from tests.support.aws import Aws, aws_running
from tests.worker.configurations import ONE

BUCKET = Path(__file__).resolve().parents[1] / "demo" / "configurations" / "bucket" / "main.tf"
AWS_ROUNDS, SMALL_ROUNDS = 5, 12

#: What a shell needs where plan and apply are two jobs, as in Lockstep: the second begins with nothing but the plan.
AGAIN = "rm -rf .terraform"


@dataclass
class Times:
    """Seconds of each round, in the order in which they were taken."""

    lockstep: list[float] = field(default_factory=list)
    shell: list[float] = field(default_factory=list)
    two_jobs: list[float] = field(default_factory=list)
    walled: list[float] = field(default_factory=list)
    phases: list[float] = field(default_factory=list)

    def more(self, than: list[float]) -> list[float]:
        return [mine - other for mine, other in zip(self.lockstep, than, strict=True)]


def measure(tell: Tell) -> None:
    """1a with the AWS provider and a code before the apply, 1b with terraform_data and a confirmation."""
    with tempfile.TemporaryDirectory(prefix="lb-aws-") as name, aws_running(Path(name) / "aws") as aws:
        rc = mirror.write_cli_config(Path(name) / "terraform.rc", mirror.provider_mirror())
        settings = {"AWS_ENDPOINT_URL": aws.endpoint, "TF_CLI_CONFIG_FILE": str(rc)}
        with stack.running(**settings) as running:
            person = running.person()
            _small(running, person, tell)
            _aws(running, person, aws, settings, tell)


def _aws(running: Stack, person: Person, aws: Aws, settings: dict[str, str], tell: Tell) -> None:
    env = settings | _session(running, aws, settings)
    configuration = BUCKET.read_text()
    with running.inside():
        lab.aws_keys(aws)
    times = Times()
    for number in range(-1, AWS_ROUNDS):
        with running.inside():
            made = stack.environment(f"bucket-{number + 1}", configuration, MfaLevel.APPLIES_ONLY)
            factories.variable("bucket_name", f"lockstep-{number}", of=made, category=Category.TERRAFORM)
        if number < 0:  # moto's first answers, the provider's first start and the web server's first STS call
            _lockstep(running, person, "bucket-0", aws)
            continue
        times.shell.append(_in_shell(configuration, f'bucket_name = "shell-{number}"\n', env, twice=False))
        times.lockstep.append(_lockstep(running, person, f"bucket-{number + 1}", aws, times))
        times.two_jobs.append(_in_shell(configuration, f'bucket_name = "again-{number}"\n', env, twice=True))
        times.walled.append(_in_walls(running, number, configuration, f'bucket_name = "walled-{number}"\n', env))
    ratios, fair = pair_ratios(times.lockstep, times.shell), pair_ratios(times.lockstep, times.two_jobs)
    what = "whole run with the AWS provider over init, plan, apply in a shell"
    detail = _detail(times)
    tell(Figure("1a", what, median(ratios), "×", 1.03, n=len(ratios), spread=spread(ratios), detail=detail))
    what = "the same over a shell whose apply is a job of its own (init again)"
    tell(Figure("1a'", what, median(fair), "×", n=len(fair), spread=spread(fair)))
    walls = pair_ratios(times.walled, times.shell)
    what = "init, plan, apply inside the sandbox and the walls in the network, and nothing else, over a shell"
    tell(Figure("1a''", what, median(walls), "×", n=len(walls), spread=spread(walls)))


def _session(running: Stack, aws: Aws, settings: dict[str, str]) -> dict[str, str]:
    """What somebody exports who got a session with a code before; that it took a moment is not counted."""
    user = aws.user()
    keys = sts.LongLivedKeys(user.access_key_id, user.secret_access_key, user.mfa_serial, lab.REGION)
    found = config.load({**settings, "LOCKSTEP_HOME": str(running.home)})
    session = sts.get_session_token(found, keys, aws.code(), 3600)
    return {
        "AWS_ACCESS_KEY_ID": session.access_key_id,
        "AWS_SECRET_ACCESS_KEY": session.secret_access_key,
        "AWS_SESSION_TOKEN": session.session_token,
        "AWS_REGION": lab.REGION,
    }


def _small(running: Stack, person: Person, tell: Tell) -> None:
    times = Times()
    for number in range(-1, SMALL_ROUNDS):
        with running.inside():
            stack.environment(f"small-{number + 1}", ONE)
        if number < 0:
            _lockstep(running, person, "small-0")
            continue
        times.shell.append(_in_shell(ONE, "", {}, twice=False))
        times.lockstep.append(_lockstep(running, person, f"small-{number + 1}", times=times))
        times.two_jobs.append(_in_shell(ONE, "", {}, twice=True))
    more, fair = times.more(times.shell), times.more(times.two_jobs)
    what = "whole run with terraform_data, more than init, plan, apply in a shell"
    detail = _detail(times)
    tell(Figure("1b", what, median(more), "s", 0.4, n=len(more), spread=spread(more), detail=detail))
    what = "the same, more than a shell whose apply is a job of its own (init again)"
    tell(Figure("1b'", what, median(fair), "s", n=len(fair), spread=spread(fair)))


def _lockstep(
    running: Stack, person: Person, environment: str, aws: Aws | None = None, times: Times | None = None
) -> float:
    """One whole run. The button is pressed as soon as the page has it: the driver looks every 5 ms."""
    code = aws.code() if aws is not None else ""
    begun = time.monotonic()
    place = person.post(stack.path(environment))
    run_id = running.run_id(place)
    running.wait_person(run_id)
    if aws is None:
        person.post(f"{place}/confirm")
    else:
        person.post(f"{place}/authenticate", token=code)
    took = running.wait(run_id, "applied") - begun
    if times is not None:
        spent = "SELECT sum(julianday(finished_at) - julianday(started_at)) * 86400 FROM phase WHERE run_id = ?"
        times.phases.append(running.number(spent, run_id))
    # The attributes of the plan are read by the worker of the plan, perhaps still: they are no part of the next round.
    stack.until(lambda: running.value("SELECT summary FROM run WHERE id = ?", run_id) is not None, 60)
    return took


def _in_shell(configuration: str, variables: str, env: dict[str, str], *, twice: bool) -> float:
    with shell.folder(configuration, variables, env) as there:
        if not twice:
            return there.seconds(shell.INIT, shell.PLAN, shell.APPLY)
        return there.seconds(shell.INIT, shell.PLAN, AGAIN, shell.INIT, shell.APPLY)


def _in_walls(running: Stack, number: int, configuration: str, variables: str, env: dict[str, str]) -> float:
    """The same three commands started as a phase starts them, with nothing else of Lockstep around them."""
    program = terraform.locate(None)
    workdir = Workdir.create(running.folder / "walled", number, 1)
    (workdir.config / "main.tf").write_text(configuration)
    (workdir.config / "terraform.tfvars").write_text(variables)
    given = {"PATH": os.environ["PATH"], "HOME": str(workdir.home), "TMPDIR": str(workdir.tmp), **shell.COMMON, **env}
    found = config.load({**env, "LOCKSTEP_HOME": str(running.home)})
    bwrap = find_walls("bwrap").bwrap
    assert bwrap is not None, "There is no sandbox here."
    cgroup = network.enclosure(network_rules.rules(found)).folder
    walls = Sandbox(bwrap, workdir.root, running.folder / "walled", owner=f"run {number}", cgroup=cgroup)
    plan = str(workdir.plan_path)
    begun = time.monotonic()
    for words in (["init", "-input=false"], ["plan", "-input=false", f"-out={plan}"], ["apply", "-input=false", plan]):
        child = terraform.start(
            program, words, cwd=workdir.cwd, env=given, spool=workdir.spool_path, control=workdir.control, sandbox=walls
        )
        assert child.wait(600) == 0, workdir.spool_path.read_text(errors="replace")[-2000:]
    took = time.monotonic() - begun
    workdir.remove()
    return took


def _detail(times: Times) -> dict[str, object]:
    names = ("lockstep", "shell", "two_jobs", "phases")
    return {f"{name}_s": round(median(getattr(times, name)), 3) for name in names}
