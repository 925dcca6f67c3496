"""A disk that is full before terraform begins, or while it saves its plan: said so, and nobody is asked for a code."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from policy.lifecycle import RunStatus
from services.execution import steps, terraform
from services.execution.workdir import Workdir
from tests.support import lab
from tests.worker.configurations import ONE, TWO
from tests.worker.conftest import Bench
from tests.worker.test_full_disk import small_disk

__all__ = ["small_disk"]

pytestmark = pytest.mark.terraform

EMPTY = b'{"version":4,"terraform_version":"1.0.0","serial":1,"lineage":"x","outputs":{},"resources":[]}'


def fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.fixture
def filled_by_the_plan(small_disk: Path) -> Iterator[str]:
    """The URL of a state that a plan reads; before it is answered, the disk fills up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fill(small_disk)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(EMPTY)

        def log_message(self, format: str, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_plan_that_was_not_saved_whole_is_nothing_to_confirm(bench: Bench, filled_by_the_plan: str) -> None:
    config = f'config = {{ address = "{filled_by_the_plan}" }}'
    reading = f'data "terraform_remote_state" "x" {{\n  backend = "http"\n  {config}\n}}\n'
    run = bench.run(TWO + reading)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert "Plan: 2 to add" in lab.log_of(run.plan), "terraform itself saw no error"
    assert run.error_code == "plan_unsaved" and "is the disk of the worker’s machine full?" in run.error
    assert bench.environment.active_run_id is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["make", "remove"])
def test_a_directory_that_cannot_be_made_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def refuse(self: Workdir) -> None:
        raise OSError(code, os.strerror(code))

    run = bench.run(ONE)
    monkeypatch.setattr(Workdir, call, refuse)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "workdir" and f"cannot be written: {os.strerror(code)}. Nothing was run." in run.error


def test_a_directory_in_which_a_command_was_started_is_not_touched(bench: Bench) -> None:
    run = bench.run(ONE)
    workdir = steps.workdir_of(run, run.plan)
    workdir.make()
    (workdir.control / "plan.pid").touch()
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert "cannot be written: File exists. Nothing was run." in run.error
    assert (workdir.control / "plan.pid").exists()
    workdir.remove()


def test_a_disk_that_is_full_before_the_plan_is_said(bench: Bench, small_disk: Path) -> None:
    run = bench.run(ONE)
    fill(small_disk)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert "No space left on device" in run.error and "Nothing was run" in run.error
    os.unlink(small_disk / "filler")
    assert bench.work(bench.run(ONE).plan) is RunStatus.AWAITING_CONFIRMATION


@pytest.mark.parametrize("step", ["init", "plan"])
def test_a_step_that_cannot_be_started_for_a_full_disk_is_said(
    bench: Bench, small_disk: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    original = getattr(steps, f"{step}_arguments")

    def filling(*given: object) -> list[str]:
        fill(small_disk)
        arguments: list[str] = original(*given)
        return arguments

    monkeypatch.setattr(steps, f"{step}_arguments", filling)
    run = bench.run(ONE)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "not_started" and f"Terraform {step} could not be started" in run.error
    assert bench.environment.active_run_id is None


def test_a_disk_that_is_full_before_the_apply_is_said(bench: Bench, small_disk: Path) -> None:
    run = bench.confirmed(ONE)
    fill(small_disk)
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert "No space left on device" in run.error and run.error_code == "workdir"


def test_a_terraform_that_runs_although_its_wrapper_did_not_answer_is_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = terraform.start

    def start(*given: Any, **named: Any) -> terraform.Child:
        original(*given, **named)
        raise terraform.ChildNotStarted("The wrapper was killed as it was about to answer.")

    monkeypatch.setattr(terraform, "start", start)
    run = bench.applied(ONE)
    assert lab.log_of(run.apply).count("Apply complete!") == 1
