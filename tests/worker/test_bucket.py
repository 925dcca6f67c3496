"""Whole runs with real terraform whose configuration, plan and state lie in a bucket, and a bucket that goes away."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

import config
from extensions import db
from models import Blob, Environment, LogChunk, Phase, PhaseStatus, StateVersion
from policy.lifecycle import LEASE, RunStatus
from policy.permissions import Access
from services import clock, configurations, doctor, runs, state_writes, states
from services.doctor import Status
from services.execution import inside, job, lease, reconcile, store_wait
from services.execution.saved_plan import whole_plan
from services.storage import object_store
from tests import factories
from tests.support import bucket as buckets
from tests.support import lab
from tests.support.aws import Aws
from tests.support.bucket import Bucket, bucket, one_bucket
from tests.worker.configurations import ONE, held
from tests.worker.conftest import Bench
from tests.worker.test_unanswered import Commits, commits

__all__ = ["bucket", "commits", "one_bucket"]

pytestmark = pytest.mark.terraform


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, database: dict[str, str], one_aws: Aws, bucket: Bucket) -> config.Config:
    environ = {"LOCKSTEP_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url, "AWS_ENDPOINT_URL": one_aws.endpoint}
    return config.load(environ | database | bucket.settings)


def kinds(bucket: Bucket) -> list[str]:
    return sorted(key.removeprefix(f"{buckets.PREFIX}/").split("/")[0] for key in bucket.objects())


def anew(phase: Phase) -> Phase:
    db.session.refresh(phase)
    return phase


def test_a_whole_run(bench: Bench, bucket: Bucket) -> None:
    secret = 'resource "terraform_data" "it" {\n  input = "canary-in-the-state"\n}\n'
    run = bench.applied(secret)
    assert kinds(bucket) == ["configuration", "plan", "state"]
    assert db.session.query(Blob).filter(Blob.data.isnot(None)).count() == 0
    assert not any(b"canary" in content or b"terraform_data" in content for content in bucket.objects().values())
    version, content = states.content(bench.environment, 1)
    assert b"canary-in-the-state" in content
    assert version.run_id == run.id
    again = bench.run(secret)
    assert bench.work(again.plan) is RunStatus.PLANNED_AND_FINISHED, "the state came back from the bucket"


def test_terraform_sees_none_of_the_servers_credentials(bench: Bench, bucket: Bucket, notes: Path) -> None:
    seen = notes / "environment"
    bench.applied(
        'resource "terraform_data" "it" {\n  provisioner "local-exec" {\n'
        f"    command = \"env > {seen}; tr '\\\\000' '\\\\n' < /proc/$PPID/environ >> {seen}\"\n  }}\n}}\n"
    )
    text = seen.read_text()
    assert "TF_IN_AUTOMATION=1" in text
    for value in (*buckets.CREDENTIALS.values(), bucket.endpoint, "BLOB_STORE"):
        assert value not in text
    assert os.environ["AWS_ACCESS_KEY_ID"] in buckets.CREDENTIALS.values()


def test_a_bucket_that_goes_away_during_an_apply_loses_no_state(bench: Bench, bucket: Bucket, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run, phase = bench.applying(held(gate))
    bucket.away()
    gate.touch()
    lab.until(lambda: "Apply complete!" in lab.log_of(run.apply), "terraform is done, and its log goes on")
    beat = run.apply.heartbeat_at
    lab.until(lambda: anew(run.apply).heartbeat_at != beat, "the lease is renewed meanwhile")
    assert lab.status(run) is RunStatus.APPLYING
    bucket.back()
    phase.result()
    assert lab.status(run) is RunStatus.APPLIED, run.error
    assert [version.resources for version in db.session.query(StateVersion)] == [2]
    assert b'"second"' in states.content(bench.environment, 1)[1]
    assert kinds(bucket) == ["configuration", "plan", "state"], "each replaced state was removed"


def test_a_silent_bucket_keeps_nobody_waiting_and_loses_neither_lease_nor_state(
    bench: Bench, bucket: Bucket, tmp_path: Path
) -> None:
    gate, last = tmp_path / "gate", tmp_path / "last"
    waits = f"until test -e {last}; do sleep 0.1; done"
    third = f'provisioner "local-exec" {{\n    command = "{waits}"\n  }}'
    depends = "depends_on = [terraform_data.second]"
    run, phase = bench.applying(held(gate) + f'resource "terraform_data" "third" {{\n  {depends}\n  {third}\n}}\n')
    lab.until(lambda: db.session.query(StateVersion).count() == 1, "the first state is stored")
    bucket.silent()
    gate.touch()
    lab.until(lambda: "third: Provisioning with" in lab.log_of(run.apply), "the second state is written")
    worker, until = run.apply.worker, time.monotonic() + 25
    waited, ages = [], []
    while time.monotonic() < until:
        began = time.monotonic()
        db.session.execute(update(Environment).values(name=Environment.name))
        db.session.commit()
        waited.append(time.monotonic() - began)
        ages.append(clock.now() - (anew(run.apply).heartbeat_at or clock.now()))
        db.session.commit()
        reconcile.look_around()
        time.sleep(0.2)
    assert max(waited) < 3, "another writer gets through"
    assert max(ages) < LEASE / 2
    assert not [job for job in lab.queued_jobs() if job[0] == "services.execution.job.adopt_phase"]
    bucket.back()
    lab.until(lambda: db.session.query(StateVersion).one().resources == 2, "it is stored in mid-apply", 40)
    last.touch()
    phase.result()
    assert (lab.status(run), anew(run.apply).worker) == (RunStatus.APPLIED, worker)
    assert db.session.query(StateVersion).one().resources == 3
    referenced = {location for (location,) in db.session.query(Blob.location)}
    assert {f"s3://{buckets.NAME}/{key}" for key in bucket.objects()} == referenced, "nothing is left over"


def test_a_silent_bucket_keeps_no_writer_waiting_for_a_terminal(bench: Bench, bucket: Bucket) -> None:
    bench.applied(ONE)
    _, content = states.content(bench.environment, 1)
    newer = json.dumps({**json.loads(content), "serial": 9}).encode()
    db.session.rollback()
    bucket.silent()

    def save() -> None:
        state_writes.from_terminal(factories.member(), factories.environment(), newer, None, "a token")

    saving = lab.Beside(bench.app, save)
    waited = []
    for _ in range(10):
        began = time.monotonic()
        db.session.execute(update(Environment).values(name=Environment.name))
        db.session.commit()
        waited.append(time.monotonic() - began)
        time.sleep(0.2)
    with pytest.raises(object_store.StoreAway):
        saving.result()
    bucket.back()
    assert max(waited) < 1
    save()
    assert states.versions(bench.environment)[0].serial == 9


def test_a_bucket_that_is_away_delays_the_beginning_of_a_phase(bench: Bench, bucket: Bucket) -> None:
    run = bench.run(ONE)
    bucket.away()
    phase = bench.start(run.plan)
    lab.until(lambda: lab.status(run) is RunStatus.PLANNING, "it is taken")
    beat = run.plan.heartbeat_at
    lab.until(lambda: anew(run.plan).heartbeat_at != beat, "it waits with its lease renewed")
    bucket.back()
    phase.result()
    assert lab.status(run) is RunStatus.AWAITING_CONFIRMATION, run.error


@pytest.mark.parametrize("slow", ["lock", "plan", "init"])
def test_what_takes_its_time_to_be_kept_keeps_its_lease(
    bench: Bench, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """A bucket that answers slowly has 8 s for each MiB; another worker would take over after 30 s, and so on."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    run = bench.run({"main.tf": ONE, ".terraform.lock.hcl": "# Of no providers\n"})
    phase_id = run.plan.id
    signs: list[datetime] = []

    def sign() -> datetime:
        found = db.session.scalar(select(Phase.heartbeat_at).where(Phase.id == phase_id))
        assert found is not None
        return found

    def wait_for_signs() -> None:
        for _ in range(2):
            signs.append(lab.until(sign, "a sign"))
            lab.until(lambda: sign() > signs[-1], "another sign", seconds=10)

    def slowly(call: Callable[..., None], what: str) -> Callable[..., None]:
        def called(*arguments: Any, **more: Any) -> None:
            if what in str(arguments[0]):
                wait_for_signs()
            call(*arguments, **more)

        return called

    if slow == "init":
        monkeypatch.setattr(inside, "copy", slowly(inside.copy, ""))
    else:
        monkeypatch.setattr(object_store, "put", slowly(object_store.put, f"/{slow}/"))
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION, run.error
    assert len(signs) == 2


AWAY = "The object store does not take or give anything ("
SOON = "); the run goes on by itself as soon as it does.\n"
AGAIN = "The object store answers again.\n"


def own(phase: Phase) -> str:
    """The lines of Lockstep's own in the log of a phase, without the kind of the store's silence."""
    query = select(LogChunk.data).where(LogChunk.phase_id == phase.id, LogChunk.tone.isnot(None))
    lines = b"".join(db.session.scalars(query.order_by(LogChunk.offset))).decode()
    return re.sub(r"\(\w+\)(?=; the run goes on)", "()", lines)


@pytest.fixture
def told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_wait, "TOLD_AFTER", 0.7)


@pytest.mark.usefixtures("told_soon")
def test_a_run_that_cannot_begin_says_what_it_waits_for(bench: Bench, bucket: Bucket) -> None:
    run = bench.run(ONE)
    bucket.away()
    phase = bench.start(run.plan)
    lab.until(lambda: SOON in lab.log_of(run.plan), "the log says so")
    beat = anew(run.plan).heartbeat_at
    lab.until(lambda: anew(run.plan).heartbeat_at != beat, "it is tried again")
    assert lab.tones_of(run.plan) == {"error"}
    db.session.rollback()
    bucket.back()
    phase.result()
    assert lab.status(run) is RunStatus.AWAITING_CONFIRMATION, run.error
    told = f"Nothing was run yet: the run waits for what it begins with. {AWAY}{SOON}{AGAIN}"
    assert own(run.plan).startswith(f"{told}Configuration v1 unpacked")
    assert bucket.endpoint not in lab.log_of(run.plan) and buckets.NAME not in lab.log_of(run.plan)


@pytest.mark.usefixtures("told_soon")
def test_a_plan_that_cannot_be_stored_says_so(bench: Bench, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_away_before_the_plan_is_stored(bucket, monkeypatch)
    run = bench.run(ONE)
    phase = bench.start(run.plan)
    lab.until(lambda: SOON in lab.log_of(run.plan), "the log says so")
    bucket.back()
    phase.result()
    assert lab.status(run) is RunStatus.AWAITING_CONFIRMATION, run.error
    what = "The plan is done and waits on the worker’s machine to be stored; nothing was applied."
    assert f"{what} {AWAY}{SOON}{AGAIN}Plan finished in" in own(run.plan)


def goes_away_before_the_plan_is_stored(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_away = [bucket.away]

    def whole(plan: bytes) -> bool:
        if goes_away:
            goes_away.pop()()
        return whole_plan(plan)

    monkeypatch.setattr(job, "whole_plan", whole)


@pytest.mark.usefixtures("told_soon")
def test_who_goes_while_their_run_waits_for_the_bucket_begins_nothing(bench: Bench, bucket: Bucket) -> None:
    run = bench.run(ONE, by="bob")
    bucket.away()
    phase = bench.start(run.plan)
    lab.until(lambda: SOON in lab.log_of(run.plan), "the log says so")
    factories.grant(bench.environment, "bob", Access.READ)
    bucket.back()
    phase.result()
    assert lab.status(run) is RunStatus.ERRORED
    db.session.refresh(run)
    said = "bob may not apply here any more. Nothing was run. Queue a new plan."
    assert (run.error_code, run.error) == ("access_ended", said)
    assert "Initializing" not in lab.log_of(run.plan)


@pytest.mark.usefixtures("told_soon")
@pytest.mark.parametrize("kind", ["plan", "apply", "plan to be stored"])
def test_a_cancel_does_not_wait_for_the_bucket(
    bench: Bench, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = bench.confirmed(ONE) if kind == "apply" else bench.run(ONE)
    phase = run.apply if kind == "apply" else run.plan
    if kind == "plan to be stored":
        goes_away_before_the_plan_is_stored(bucket, monkeypatch)
    else:
        bucket.away()
    working = bench.start(phase)
    lab.until(lambda: SOON in lab.log_of(phase), "the log says so")
    runs.cancel(factories.member("bob"), run)
    working.result()
    assert lab.status(run) is RunStatus.CANCELED
    db.session.refresh(run)
    assert (anew(phase).status, run.ended_by.name, run.error) == (PhaseStatus.CANCELED, "bob", "")  # type: ignore[union-attr]
    assert (phase.started_at is None) is (kind != "plan to be stored")
    assert own(phase).endswith(f"{AWAY}{SOON}Canceled by bob; nothing was changed\n")
    assert bench.environment.active_run_id is None
    assert bench.workdirs() == []


@pytest.mark.usefixtures("told_soon")
@pytest.mark.parametrize("fates", [[], ["fails", "unanswered"]], ids=["", "commits fail"])
def test_an_apply_whose_state_cannot_be_stored_says_so_once(
    bench: Bench, bucket: Bucket, tmp_path: Path, commits: Commits, fates: list[str]
) -> None:
    gate = tmp_path / "gate"
    run, phase = bench.applying(held(gate))
    commits.line, commits.fates = SOON, list(fates)
    bucket.away()
    gate.touch()
    lab.until(lambda: SOON in lab.log_of(run.apply) and not commits.fates, "the log says so")
    beat = anew(run.apply).heartbeat_at
    lab.until(lambda: anew(run.apply).heartbeat_at != beat, "it is tried again")
    db.session.rollback()
    commits.line, commits.fates = AGAIN, list(fates)
    bucket.back()
    phase.result()
    assert commits.fates == []
    assert lab.status(run) is RunStatus.APPLIED, run.error
    told = f"Terraform is done, and the state waits on the worker’s machine to be stored. {AWAY}{SOON}{AGAIN}"
    assert own(run.apply).partition("this machine\n")[2].startswith(f"{told}Apply finished in")
    assert lab.log_of(run.apply).index("Apply complete!") < lab.log_of(run.apply).index(AWAY)


def test_a_short_hiccup_says_nothing(bench: Bench, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_wait, "TOLD_AFTER", 600)
    run = bench.run(ONE)
    bucket.away()
    phase = bench.start(run.plan)
    lab.until(lambda: lab.status(run) is RunStatus.PLANNING, "it is taken")
    for _ in range(2):
        beat = anew(run.plan).heartbeat_at
        lab.until(lambda beat=beat: anew(run.plan).heartbeat_at != beat, "it is tried again")  # type: ignore[misc]
    db.session.rollback()
    bucket.back()
    phase.result()
    assert lab.status(run) is RunStatus.AWAITING_CONFIRMATION, run.error
    assert "object store" not in lab.log_of(run.plan)


@pytest.mark.usefixtures("told_soon")
def test_who_lost_the_phase_says_nothing_more_and_ends(bench: Bench, bucket: Bucket) -> None:
    run = bench.run(ONE)
    bucket.away()
    phase = bench.start(run.plan)
    lab.until(lambda: SOON in lab.log_of(run.plan), "the log says so")
    db.session.execute(update(Phase).where(Phase.id == run.plan.id).values(worker="another:1"))
    db.session.commit()
    phase.result()
    bucket.back()
    assert lab.status(run) is RunStatus.PLANNING
    assert own(run.plan).endswith(SOON)


def test_a_missing_plan_ends_the_run_with_the_reason(bench: Bench, bucket: Bucket) -> None:
    run = bench.planned(ONE)
    bucket.remove(f"{buckets.PREFIX}/plan/{run.plan_blob_id}")
    runs.confirm(factories.member(), run)
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert (run.error_code, "no longer in the object store" in run.error) == ("plan_unreadable", True)


def test_wrong_credentials_are_told(bench: Bench, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in checks signatures, which moto does not."""
    bench.settings(monkeypatch, blob_store_endpoint=aws.endpoint)
    bench.app.extensions.pop("lockstep-object-store", None)
    finding = next(each for each in doctor.examine() if each.subject == "Blob store")
    assert (finding.status, "(InvalidAccessKeyId)" in finding.detail) == (Status.PROBLEM, True), finding
    assert "AWS credentials" in finding.advice
    with pytest.raises(object_store.StoreAway, match=r"InvalidAccessKeyId.*Nothing was changed"):
        bench.upload(ONE)
    db.session.rollback()
    assert configurations.latest(bench.environment) is None
    bench.app.extensions.pop("lockstep-object-store", None)


def test_the_doctor_tries_the_bucket(bench: Bench, bucket: Bucket) -> None:
    finding = next(each for each in doctor.examine() if each.subject == "Blob store")
    assert finding.status is Status.OK, finding
    assert bucket.objects() == {}
    bucket.away()
    finding = next(each for each in doctor.examine() if each.subject == "Blob store")
    assert finding.status is Status.PROBLEM
