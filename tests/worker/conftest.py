"""What the tests of this folder start from: alice's environment and a bench to run its phases on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from models import ConfigurationVersion, Environment, Phase, Run
from policy.lifecycle import RunStatus
from services import runs
from services.execution import job
from services.execution.sandbox import Sandbox
from tests import factories
from tests.support import lab
from tests.support.aws import Aws
from tests.support.gate_fixtures import application, aws, here, one_aws

__all__ = ["application", "aws", "bench", "here", "one_aws"]


class Bench:
    """One environment, and its phases run in this process as the worker's child would run them."""

    def __init__(self, app: Flask, aws: Aws) -> None:
        self.app, self.aws = app, aws
        self.environment: Environment = factories.environment()

    @property
    def home(self) -> Path:
        """The data folder."""
        home: Path = self.app.config["LOCKSTEP"].home
        return home

    def settings(self, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
        """Other settings for this test."""
        monkeypatch.setitem(self.app.config, "LOCKSTEP", dataclasses.replace(self.app.config["LOCKSTEP"], **values))

    def upload(self, files: dict[str, str] | str) -> ConfigurationVersion:
        """A configuration of these files, or of one main.tf."""
        return lab.upload(self.environment, files)

    def run(self, files: dict[str, str] | str | ConfigurationVersion, by: str = "alice") -> Run:
        """A run of a configuration, queued or waiting; nothing of it has run yet."""
        version = files if isinstance(files, ConfigurationVersion) else self.upload(files)
        return lab.new_run(self.environment, version, by)

    def work(self, phase: Phase) -> RunStatus:
        """Run a phase to its end and answer the run's status."""
        phase_id, run = phase.id, phase.run
        lab.db.session.commit()
        job.run_phase(phase_id)
        lab.db.session.rollback()
        return lab.status(run)

    def start(self, phase: Phase) -> lab.Beside:
        """Run a phase beside the test."""
        phase_id = phase.id
        lab.db.session.commit()
        return lab.Beside(self.app, lambda: job.run_phase(phase_id))

    def planned(self, files: dict[str, str] | str | ConfigurationVersion, by: str = "alice") -> Run:
        """A run whose plan waits for a confirmation."""
        run = self.run(files, by)
        assert self.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
        return run

    def planned_or_waiting(self, files: dict[str, str] | str, by: str = "alice") -> Run:
        """A run whose plan is done and whose apply waits for a person, with or without a code."""
        run = self.run(files, by)
        self.work(run.plan)
        assert run.plan_digest, run.error
        return run

    def confirmed(self, files: dict[str, str] | str | ConfigurationVersion, by: str = "alice") -> Run:
        """A run whose apply is queued."""
        run = self.planned(files, by)
        runs.confirm(factories.member(by), run)
        return run

    def applying(self, files: dict[str, str] | str, sign: str = "second: Provisioning with") -> tuple[Run, lab.Beside]:
        """A run whose apply goes on beside the test, and has come so far that its log has ``sign``."""
        run = self.confirmed(files)
        beside = self.start(run.apply)
        lab.until(lambda: sign in lab.log_of(run.apply), "the apply is under way")
        return run, beside

    def applied(self, files: dict[str, str] | str | ConfigurationVersion, by: str = "alice") -> Run:
        """A run that was applied."""
        run = self.confirmed(files, by)
        assert self.work(run.apply) is RunStatus.APPLIED, run.error
        return run

    def workdirs(self) -> list[str]:
        """The working directories of phases that exist."""
        folder = self.home / "work"
        return sorted(name for name in os.listdir(folder) if name.startswith("phase-")) if folder.exists() else []


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a sandbox of this process can write to: what a test wants to learn from inside."""
    folder, files = tmp_path / "notes", Sandbox._files
    folder.mkdir()
    folder.chmod(0o777)

    def with_notes(self: Sandbox, *args: Any) -> list[str]:
        return [*files(self, *args), "--bind", str(folder), str(folder)]

    monkeypatch.setattr(Sandbox, "_files", with_notes)
    return folder


@pytest.fixture
def bench(here: Flask, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """No working directory may be left at the end."""
    tmp_path.chmod(0o755)  # a sandbox with another user id looks for gates in it
    monkeypatch.setenv("TERRAFORM_SANDBOX_PATHS", str(tmp_path))  # for workers of their own
    bench = Bench(here, aws)
    bench.settings(monkeypatch, sandbox_paths=(tmp_path,))
    yield bench
    assert bench.workdirs() == []
