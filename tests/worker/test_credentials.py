"""What a gated terraform is given, and what happens when its credentials are gone or nearly over."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from extensions import db
from models import Phase, PhaseStatus, Run
from policy.lifecycle import RunStatus
from policy.mfa import MfaLevel
from services import clock, environments, queue, runs
from services.execution import prepared
from services.mfa import handoff
from services.mfa.credentials import TemporaryCredentials
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE, hcl
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def level(bench: Bench, wanted: MfaLevel) -> None:
    lab.aws_keys(bench.aws)
    bench.environment.mfa_level = wanted
    db.session.commit()


# -- the child's environment -------------------------------------------------------------------------------------------


@pytest.fixture
def wrapper(notes: Path) -> Path:
    """A terraform that notes each command's environment before it becomes the real one."""
    real = shutil.which("terraform")
    assert real is not None
    path = notes / "terraform"
    path.write_text(f'#!/bin/sh\nenv -0 > "$(mktemp {notes}/env-XXXXXX)-$1"\nexec "{real}" "$@"\n')
    path.chmod(0o755)
    return path


def noted(wrapper: Path, command: str) -> list[dict[str, str]]:
    """The environments of a command, oldest first; forgotten afterwards."""
    found = sorted(wrapper.parent.glob(f"env-*-{command}"), key=lambda path: path.stat().st_mtime_ns)
    environments = []
    for path in found:
        pairs = (pair.partition("=") for pair in path.read_text().split("\0") if pair)
        environments.append({name: value for name, _, value in pairs})
        path.unlink()
    return environments


ALLOWED = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL",
    "AWS_EC2_METADATA_DISABLED", "CHECKPOINT_DISABLE", "HOME", "LANG", "PATH", "TF_INPUT", "TF_IN_AUTOMATION", "TMPDIR",
    "TEAM",
}  # fmt: skip
#: What the shell of the wrapper adds itself.
SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.parametrize("inits_of_the_apply", [0, 1])
def test_a_gated_terraform_has_the_temporary_credentials_alone(
    bench: Bench, wrapper: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, inits_of_the_apply: int
) -> None:
    monkeypatch.setenv("WORKERS_OWN_SECRET", "not for terraform")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    minted: list[TemporaryCredentials] = []
    seal = handoff.seal

    def remember(phase_id: int, credentials: TemporaryCredentials) -> None:
        minted.append(credentials)
        seal(phase_id, credentials)

    monkeypatch.setattr(handoff, "seal", remember)
    level(bench, MfaLevel.PLANS_AND_APPLIES)
    factories.variable("TEAM", "blue")
    bench.settings(monkeypatch, terraform_bin=str(wrapper))
    told = notes / "told.json"
    command = f"{sys.executable} -c " + (
        "'import hashlib, json, os, sys; json.dump({k: hashlib.sha256(v.encode()).hexdigest() "
        f'for k, v in os.environ.items()}}, open(sys.argv[1], "w"))\' {told}'
    )
    run = bench.run(
        f'resource "terraform_data" "tell" {{\n  provisioner "local-exec" {{\n    command = {hcl(command)}\n  }}\n}}\n'
    )
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    if inits_of_the_apply:
        prepared.drop(run.id)
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.apply) is RunStatus.APPLIED, run.error

    alice = bench.aws.user()
    never = {alice.access_key_id, alice.secret_access_key, alice.mfa_serial}
    inits, plans, applies = (noted(wrapper, name) for name in ("init", "plan", "apply"))
    assert (len(inits), len(plans), len(applies)) == (1 + inits_of_the_apply, 1, 1)
    of_the_plan, of_the_apply = [inits[0], *plans], [*inits[1:], *applies]
    minted_for = [minted[0]] * len(of_the_plan) + [minted[1]] * len(of_the_apply)
    for environment, credentials in zip(of_the_plan + of_the_apply, minted_for, strict=True):
        assert environment["AWS_ACCESS_KEY_ID"] == credentials.access_key_id
        assert environment["AWS_SECRET_ACCESS_KEY"] == credentials.secret_access_key
        assert environment["AWS_SESSION_TOKEN"] == credentials.session_token
        assert not never & set(environment.values())
        assert set(environment) - SHELL == ALLOWED
        assert environment["HOME"].startswith(str(bench.home / "work" / "phase-"))
    for command_name in ("show", "version"):
        for environment in noted(wrapper, command_name):
            assert not any(name.startswith("AWS_") and "KEY" in name for name in environment)
            assert "TEAM" not in environment
    child = json.loads(told.read_text())
    hashes = {hashlib.sha256(value.encode()).hexdigest() for value in never}
    assert not hashes & set(child.values())
    assert child["AWS_SESSION_TOKEN"] == hashlib.sha256(minted[1].session_token.encode()).hexdigest()
    assert "AWS_MFA_SERIAL_NUMBER" not in child
    kept = lab.stored(bench.app, queue.connection())
    for credentials in minted:
        for secret in credentials.secrets():
            assert secret.encode() not in kept


def test_without_a_gate_terraform_has_the_long_lived_keys_and_no_token(
    bench: Bench, wrapper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level(bench, MfaLevel.APPLIES_ONLY)
    bench.settings(monkeypatch, terraform_bin=str(wrapper))
    run = bench.planned_or_waiting(ONE)
    assert lab.status(run) is RunStatus.AWAITING_APPLY_AUTHENTICATION
    for environment in noted(wrapper, "init") + noted(wrapper, "plan"):
        assert environment["AWS_ACCESS_KEY_ID"] == bench.aws.user().access_key_id
        assert "AWS_SESSION_TOKEN" not in environment
        assert "AWS_MFA_SERIAL_NUMBER" not in environment


def test_a_job_holds_the_phases_id_and_nothing_else(bench: Bench) -> None:
    level(bench, MfaLevel.PLANS_AND_APPLIES)
    run = bench.run(ONE)
    lab.authenticate(run, bench.aws.code())
    [job] = queue.queue().get_jobs()
    assert (job.func_name, job.args, job.kwargs) == ("services.execution.job.run_phase", [run.plan.id], {})
    assert job.timeout == -1
    raw = queue.connection().hgetall(f"rq:job:{job.id}")
    assert isinstance(raw, dict)
    text = repr(raw)
    for word in ("ASIA", "AKIA", "alice", bench.aws.user().mfa_serial):
        assert word not in text


# -- credentials that cannot be used -----------------------------------------------------------------------------------


def back_to_waiting(bench: Bench, phase: Phase, why: str) -> None:
    run, kind = phase.run, phase.kind
    assert lab.status(run).value == f"awaiting_{kind}_authentication"
    db.session.refresh(phase)
    assert phase.gate_note.startswith(why)
    assert phase.gate_note.endswith("Nothing was started; enter a new code.")
    assert phase.status is PhaseStatus.WAITING
    gone = (phase.authenticated_at, phase.authenticated_by_id, phase.session_expires_at, phase.mfa_serial)
    assert gone == (None,) * 4
    log = lab.log_of(phase)
    assert log.endswith(phase.gate_note + "\n")
    assert "Initializing" not in log
    assert bench.workdirs() == []


def waiting_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """A run whose plan was authenticated and is queued, and one that waits behind it without a gate of its own."""
    lab.aws_keys(bench.aws)
    behind_level = MfaLevel.NEVER
    bench.environment.mfa_level = MfaLevel.PLANS_AND_APPLIES
    db.session.commit()
    run = bench.run(ONE)
    lab.authenticate(run, bench.aws.code())
    bench.environment.mfa_level = behind_level
    db.session.commit()
    behind = bench.run(ONE)
    assert lab.status(behind) is RunStatus.PENDING
    return run, behind


def test_lost_credentials_of_a_plan_free_the_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run, behind = waiting_behind(bench, monkeypatch)
    handoff.drop(run.plan.id)
    bench.work(run.plan)
    back_to_waiting(bench, run.plan, "The temporary credentials are gone: they ended, or Redis lost them.")
    assert lab.status(behind) is RunStatus.PLAN_QUEUED
    assert bench.environment.active_run_id == behind.id
    assert lab.queued_jobs()[-1][1] == [behind.plan.id]


def test_credentials_that_cannot_be_decrypted_are_lost_too(bench: Bench) -> None:
    level(bench, MfaLevel.PLANS_AND_APPLIES)
    run = bench.run(ONE)
    lab.authenticate(run, bench.aws.code())
    queue.connection().set(f"lockstep:handoff:{run.plan.id}", b"\x01 not an envelope of this vault, but long enough")
    bench.work(run.plan)
    back_to_waiting(bench, run.plan, "The temporary credentials are gone")


def test_short_credentials_of_an_apply_are_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    level(bench, MfaLevel.APPLIES_ONLY)
    bench.environment.session_seconds = 900
    db.session.commit()
    run = bench.planned_or_waiting(ONE)
    lab.authenticate(run, bench.aws.code())
    real = clock.now

    def later() -> datetime:
        return real() + timedelta(minutes=10, seconds=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", later)
        bench.work(run.apply)
    back_to_waiting(
        bench, run.apply, "The temporary credentials had less than 5 minutes left when the apply could start."
    )
    assert bench.environment.active_run_id == run.id, "the plan still waits to be applied"
    assert handoff.take(run.apply.id) is None
    # A new code, and the same plan is applied.
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.apply) is RunStatus.APPLIED
    assert lab.log_of(run.apply).count("Authenticated with MFA by alice") == 2


def test_a_lock_by_hand_uses_no_credentials_up(bench: Bench) -> None:
    level(bench, MfaLevel.APPLIES_ONLY)
    run = bench.planned_or_waiting(ONE)
    lab.authenticate(run, bench.aws.code())
    environments.lock(factories.member("bob"), bench.environment, "incident, hands off")
    for _ in range(2):
        assert bench.work(run.apply) is RunStatus.APPLY_QUEUED
    environments.unlock(factories.member(), bench.environment, str(bench.environment.lock_mark))
    assert bench.work(run.apply) is RunStatus.APPLIED
    assert handoff.take(run.apply.id) is None


def test_credentials_that_are_lost_while_somebody_locks_by_hand_ask_for_a_new_code(bench: Bench) -> None:
    level(bench, MfaLevel.APPLIES_ONLY)
    run = bench.planned_or_waiting(ONE)
    lab.authenticate(run, bench.aws.code())
    environments.lock(factories.member("bob"), bench.environment, "incident, hands off")
    handoff.drop(run.apply.id)
    bench.work(run.apply)
    back_to_waiting(bench, run.apply, "The temporary credentials are gone: they ended, or Redis lost them.")


def test_credentials_with_just_over_five_minutes_are_used(bench: Bench) -> None:
    level(bench, MfaLevel.PLANS_AND_APPLIES)
    bench.aws.switches.set("session_cap", seconds=330)
    run = bench.run(ONE)
    lab.authenticate(run, bench.aws.code())
    assert bench.work(run.plan) is RunStatus.AWAITING_APPLY_AUTHENTICATION


def test_without_redis_the_worker_goes_back_to_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis.exceptions import ConnectionError as RedisGone

    def gone(_phase_id: int) -> None:
        raise RedisGone("Connection refused")

    level(bench, MfaLevel.PLANS_AND_APPLIES)
    run = bench.run(ONE)
    lab.authenticate(run, bench.aws.code())
    monkeypatch.setattr(handoff, "take", gone)
    bench.work(run.plan)
    back_to_waiting(bench, run.plan, "The temporary credentials could not be fetched: Redis does not answer.")


def test_a_run_whose_apply_was_stopped_can_be_discarded(bench: Bench) -> None:
    level(bench, MfaLevel.APPLIES_ONLY)
    run = bench.planned_or_waiting(ONE)
    lab.authenticate(run, bench.aws.code())
    handoff.drop(run.apply.id)
    bench.work(run.apply)
    runs.discard(factories.member("bob"), run)
    assert lab.status(run) is RunStatus.DISCARDED
    assert bench.environment.active_run_id is None
