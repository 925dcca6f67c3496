"""A run as its page tells it, in parts. Each part has a key, so that a poll sends only what changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from flask import render_template, url_for
from markupsafe import Markup

from blueprints import gate_view, log_view, polling, run_steps
from blueprints.gate_view import GateView
from blueprints.log_view import LogView
from blueprints.presentation import lock_pill, pill
from models import MfaAttempt, Phase, Run, StateVersion
from policy import lifecycle
from policy.lifecycle import RUNNING, RunStatus
from policy.mfa import Lock, PhaseKind
from policy.permissions import Permission
from policy.plan_summary import Summary
from services import clock, queue, run_pages
from services.access import Authority
from services.errors import CodeRejected

#: Resources that a page begins with.
RESOURCES = 50

#: Attributes come seconds after the plan; after this long they are not promised any more.
_ATTRIBUTES_WITHIN = timedelta(minutes=5)


#: The parts in the order of the page; the logs are apart, they are appended to and never replaced.
PARTS = ("status", "facts", "worker", "phases", "error", "outcome", "plan", "gate", "session")

_QUEUED = (RunStatus.PLAN_QUEUED, RunStatus.APPLY_QUEUED)
#: The words of a time grow older, and form tokens change; which time it is stays in the key.
_VOLATILE = re.compile(r'(<time [^>]*>).*?</time>|name="csrf_token" value="[^"]*"', re.DOTALL)


@dataclass
class RunView:
    """What the templates under templates/runs/ know."""

    authority: Authority
    run: Run
    attempts: dict[PhaseKind, list[MfaAttempt]]
    gate: GateView
    all_resources: bool = False
    line: tuple[PhaseKind, int] | None = None
    focus: bool = False

    @property
    def at(self) -> dict[str, Any]:
        """What the addresses of this run are made of."""
        return run_steps.address(self.run)

    @property
    def pill(self) -> Markup:
        """The status, or the red lock after a refused code."""
        return lock_pill(Lock.FAILED) if self.refused else pill(self.run)

    @property
    def refused(self) -> bool:
        kind = self.run.status.awaited_phase
        return kind is not None and run_steps.failed(self.attempts[kind]) is not None

    @property
    def authenticated(self) -> Phase | None:
        """The phase whose green lock stands in the header: the one at hand, or the last one."""
        if self.run.status.awaited_phase is not None:
            return None
        return next((p for p in (self.run.apply, self.run.plan) if p.authenticated_at is not None), None)

    @property
    def authenticated_phases(self) -> list[Phase]:
        """Those that run, or ran, with temporary credentials."""
        return [phase for phase in self.run.phases if phase.authenticated_at is not None]

    @property
    def worker_lost(self) -> bool:
        """Whether nobody follows terraform: its worker fell silent, or was stopped for a restart."""
        return lifecycle.unattended(self.run.status, self.ended_in.heartbeat_at, clock.now())

    @property
    def worker_lost_since(self) -> datetime | None:
        """The last sign of a worker that fell silent; None for one that was stopped."""
        return self.ended_in.heartbeat_at if self.worker_lost else None

    @property
    def worker_host(self) -> str:
        return (self.ended_in.worker or "").rpartition(":")[0] or "its machine"

    @cached_property
    def takeover_delay(self) -> str:
        """Why nobody takes over from a lost worker, "" when somebody is about to."""
        return queue.takeover_delay((self.ended_in.worker or "").rpartition(":")[0]) if self.worker_lost else ""

    @property
    def may_give_up(self) -> bool:
        possible = lifecycle.can_give_up(self.run.status, self.ended_in.heartbeat_at, clock.now())
        return possible and self.authority.may(Permission.FORCE)

    @property
    def interruption(self) -> dict[str, Any]:
        """What is known of a run whose terraform vanished (services/execution/interruption.py)."""
        known = dict(self.run.interruption or {})
        for name in ("last_sign", "last_output"):
            known[name] = datetime.fromisoformat(known[name]) if known.get(name) else None
        return known

    @cached_property
    def steps(self) -> list[run_steps.Step]:
        return list(run_steps.steps(self.run, self.attempts))

    @cached_property
    def current(self) -> int:
        """Index of the step that the run is at, -1 for none."""
        return next((i for i, step in reversed(list(enumerate(self.steps))) if step.current), -1)

    @property
    def ended_in(self) -> Phase:
        return self.run.phase(self.gate.kind)

    @cached_property
    def state(self) -> StateVersion | None:
        return run_pages.state_of(self.run) if self.run.apply.started_at is not None else None

    @cached_property
    def summary_there(self) -> bool:
        return self.run.plan.finished_at is not None and run_pages.has_summary(self.run)

    @property
    def attributes_follow(self) -> bool:
        """Whether the resources of the plan are still being read."""
        finished = self.run.plan.finished_at
        if not self.run.plan_digest or finished is None or self.summary_there:
            return False
        return clock.now() - finished < _ATTRIBUTES_WITHIN

    @cached_property
    def summary(self) -> Summary | None:
        """The changes of the plan; None while they are not there and when they could not be read."""
        if not self.summary_there:
            return None
        try:
            return Summary.from_json(self.run.summary or {})
        except ValueError:
            return None

    @property
    def resources_shown(self) -> int:
        total = len(self.summary.resources) if self.summary else 0
        return total if self.all_resources else min(total, RESOURCES)

    @property
    def log_kinds(self) -> list[PhaseKind]:
        return [kind for kind in PhaseKind if log_view.has_log(self.run, kind)]

    def log(self, kind: PhaseKind) -> LogView:
        """A phase's log so far, rendered."""
        if kind not in self._logs:
            asked = self.line[1] if self.line and self.line[0] is kind else None
            self._logs[kind] = log_view.page(self.run, kind, asked)
        return self._logs[kind]

    @cached_property
    def _logs(self) -> dict[PhaseKind, LogView]:
        return {}

    @property
    def stamp(self) -> str:
        """What the next poll is compared with first."""
        return polling.stamp()

    def line_href(self, kind: PhaseKind, line: int) -> str:
        """The address of a line: a place on this page where it is there, else a page around it."""
        name = f"{kind.value}-{line}"
        if self.run.phase(kind).log_lines - line < log_view.CLOSED_LINES // 2:
            return f"#{name}"
        return f"{url_for('runs.show', line=name, **self.at)}#{name}"

    @property
    def every(self) -> str:
        """How often the page asks for news; "" when none can come."""
        if self.run.status in _QUEUED or self.run.status in RUNNING:
            return "1s"
        if self.attributes_follow:
            return "2s"
        return "" if self.run.status.final else "3s"

    def part(self, name: str, oob: bool = False, problem: Exception | None = None) -> Markup:
        """One part as HTML; with ``oob`` it finds its place in the page by itself. The gate says the ``problem``."""
        names = {"view": self, "run": self.run, "gate": self.gate, "oob": oob, "problem": problem}
        return Markup(render_template(f"runs/_{name}.html", **names))  # noqa: S704  (a template of this project)

    def key(self, name: str) -> str:
        """Changes when the part has to be sent again; relative times alone do not count."""
        if name == "gate":
            return _digest(repr(self.gate.key))
        if name == "session":
            return str(self.gate.session.left if self.gate.session else "")
        if name == "plan":
            counts = (self.run.counts, self.run.applied_counts, self.run.plan_digest, self.run.own_backend)
            return _digest(repr((counts, self.summary_there, self.attributes_follow, self.run.status.final)))
        return _digest(_VOLATILE.sub(r"\1", self.part(name)))

    @cached_property
    def keys(self) -> dict[str, str]:
        return {name: self.key(name) for name in PARTS}

    def changed(self, seen: Mapping[str, str]) -> list[str]:
        """The parts that a page with the keys ``seen`` lacks."""
        names = [name for name in PARTS if seen.get(name) != self.keys[name]]
        # The session meter stands inside the gate.
        return [name for name in names if name != "session" or (self.gate.session and "gate" not in names)]

    def logs_missing(self, seen: Mapping[str, str]) -> list[PhaseKind]:
        """The logs that began since."""
        return [kind for kind in self.log_kinds if kind not in log_view.offsets(seen)]

    def logs_news(self, seen: Mapping[str, str]) -> list[log_view.LogNews]:
        """The logs that the page has, each with the lines that it lacks."""
        has = log_view.offsets(seen)
        return [log_view.log_news(self.run, kind, has[kind]) for kind in self.log_kinds if kind in has]

    def logs_changed(self, seen: Mapping[str, str]) -> bool:
        """Whether a log began or grew."""
        has = log_view.offsets(seen)
        return any(has.get(kind) != self.run.phase(kind).log_size for kind in self.log_kinds)

    def ends(self, kinds: Iterable[PhaseKind]) -> dict[str, int]:
        """Up to which byte the page gets these logs."""
        return {kind.value: self.log(kind).end for kind in kinds}


def build(
    authority: Authority,
    run: Run,
    *,
    all_resources: bool = False,
    line: tuple[PhaseKind, int] | None = None,
    rejected: CodeRejected | None = None,
) -> RunView:
    """Load what the page of a run shows."""
    attempts = run_pages.attempts(run)
    gate = gate_view.build(authority, run, attempts, rejected)
    return RunView(authority, run, attempts, gate, all_resources, line, focus=rejected is not None)


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=6).hexdigest()
