"""What the steps of one phase share, and the ways in which one can break off."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from flask import current_app

from config import Config
from extensions import db
from models import Phase, Run
from policy.mfa import PhaseKind
from services.errors import LockstepError
from services.execution import network, network_rules, terraform
from services.execution.redact import Redactor
from services.execution.sandbox import Sandbox
from services.execution.terraform import Standing
from services.execution.walls import Walls, find_walls
from services.execution.workdir import Workdir
from services.mfa.credentials import TemporaryCredentials
from services.storage import logs

#: How often a phase asks whether there is a sandbox before it gives up.
TRIES = 3

_NOT_ASKED = Walls(None, unknown=True)


class PhaseFailed(LockstepError):
    """The phase ends with an error that a person can read; ``code`` and terraform's exit code are kept beside it.

    ``then`` are sentences that follow where the phase's state is stored.
    """

    def __init__(self, code: str, sentence: str, exit_code: int | None = None, then: str = "") -> None:
        super().__init__(sentence)
        self.code, self.exit_code, self.then = code, exit_code, then


class CancelCame(Exception):
    """Somebody canceled the run while no command of it ran; nothing was written down."""


class Vanished(Exception):
    """Terraform is gone without a trace of how it ended; ``str()`` is the step."""


@dataclass
class Work:
    """What the steps of one phase share. Holds ids, not rows: every step has its own short transactions.

    ``environment`` is None for a gated phase that was taken over: its credentials are gone, so nothing new is started.
    ``last_sign`` is when the worker that a phase was taken over from gave its last sign. ``configuration`` is the
    number of its version. ``state_kept_here`` is whether Lockstep keeps the state, by what the configuration said
    before terraform began; what a run writes into its files later does not count.
    """

    run_id: int
    phase_id: int
    environment_id: int
    kind: PhaseKind
    configuration: int
    workdir: Workdir
    terraform: terraform.Terraform | None
    environment: Mapping[str, str] | None = field(repr=False)
    show_environment: Mapping[str, str] = field(repr=False)
    redactor: Redactor = field(repr=False)
    credentials: TemporaryCredentials | None = field(repr=False)
    region: str | None
    version: str
    worker: str
    adopted: bool = False
    last_sign: datetime | None = None
    state_kept_here: bool = True
    walls: Walls = _NOT_ASKED
    identity: Future[str | None] | None = None
    unhidden: tuple[str, ...] = ()
    standing: Standing | None = None

    @property
    def sandbox(self) -> Sandbox | None:
        """The walls around its commands; None where there are none, and need to be none.

        A phase that was taken over asks here first. Raises :class:`PhaseFailed` when nothing may run without walls.
        """
        config: Config = current_app.config["LOCKSTEP"]
        if self.walls.unknown:
            self.walls = find_walls(config.terraform_sandbox, tries=TRIES)
        require(self.walls, "Nothing more was run.")
        if self.walls.bwrap is None:
            return None
        return Sandbox(
            self.walls.bwrap,
            self.workdir.root,
            config.home,
            readable=config.sandbox_paths,
            owner=f"run {self.run_id}",
            cgroup=network.enclosure(network_rules.rules(config)).folder,
            offline=self.walls.offline,
        )

    def stand_by(self, step: str) -> None:
        """Make everything of this command but terraform while something else goes on: `ready_for` then has it.

        Only in a sandbox, which needs no folder to be there. Where it fails, the command's start will say so.
        """
        self.dismiss()
        if self.environment is None or self.terraform is None or self.walls.bwrap is None:
            return
        with contextlib.suppress(OSError):
            self.standing = terraform.stand_by(
                self.terraform,
                step,
                cwd=self.workdir.config / self.workdir.directory,
                env=self.environment,
                spool=self.workdir.spool_path,
                control=self.workdir.control,
                sandbox=self.sandbox,
            )

    def ready_for(self, step: str) -> Standing | None:
        """What stands by for this command. The caller closes it."""
        if self.standing is not None and self.standing.step == step:
            standing, self.standing = self.standing, None
            return standing
        self.dismiss()
        return None

    def dismiss(self) -> None:
        """Send away what stands by for a command that will not come."""
        if self.standing is not None:
            self.standing.close()
            self.standing = None

    @property
    def steps(self) -> tuple[str, ...]:
        """Terraform's commands in this phase, in their order."""
        command = self.kind.value
        return (command,) if self.workdir.initialised else ("init", command)

    @property
    def tofu(self) -> bool:
        """Whether the program is OpenTofu, which reads files of its own."""
        return self.terraform is not None and self.terraform.label == "tofu"

    @property
    def begun(self) -> bool:
        """Whether the phase's own command, the last one, was started."""
        return self.workdir.started(self.kind.value)

    @property
    def run(self) -> Run:
        """The run, read anew."""
        return db.session.get_one(Run, self.run_id, populate_existing=True)

    @property
    def phase(self) -> Phase:
        """The phase, read anew."""
        return db.session.get_one(Phase, self.phase_id, populate_existing=True)

    def say(self, text: str, tone: str = "own") -> None:
        """Put a line of Lockstep's own into the log and commit."""
        logs.say(self.phase_id, text, tone=tone)
        db.session.commit()


def require(walls: Walls, ending: str = "Nothing was run.") -> None:
    """Raise :class:`PhaseFailed` when nothing may run: no walls, and one is demanded or it is not known."""
    if walls.unknown:
        again = "Queue a new run; if that ends like this too, flask doctor on the worker’s machine says more."
        raise PhaseFailed("no_sandbox", f"{walls.why} {ending} {again}")
    if walls.refused:
        raise PhaseFailed("no_sandbox", f"TERRAFORM_SANDBOX is bwrap, and {walls.why} {ending}")
