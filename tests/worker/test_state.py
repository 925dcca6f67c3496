"""The state: versions as an apply goes on, at rest, against stale and altered plans, and a backend of one's own."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from extensions import db
from models import Blob, Run, StateVersion
from policy.lifecycle import RunStatus
from services import runs, state_writes, states
from services.execution import terraform
from services.storage import blobs
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE, TWO, hcl, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


def versions() -> list[StateVersion]:
    return list(db.session.query(StateVersion).order_by(StateVersion.number))


def test_one_version_for_each_apply(bench: Bench) -> None:
    bench.applied(ONE)
    [first] = versions()
    assert (first.number, first.resources) == (1, 1)
    bench.applied(TWO)
    _, second = versions()
    assert (second.number, second.resources) == (2, 2)
    assert second.serial > first.serial
    assert second.lineage == first.lineage
    for version in versions():
        _, content = states.content(bench.environment, version.number)
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == version.md5
        assert len(content) == version.size
        assert json.loads(content)["serial"] == version.serial
        assert json.loads(content)["lineage"] == version.lineage
        assert version.run is not None and version.terraform_version == version.run.terraform_version


def test_a_version_grows_while_the_apply_runs(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = bench.confirmed(held(gate))
    applying = bench.start(run.apply)
    early = lab.until(lambda: [(v.number, v.serial, v.resources, v.blob_id) for v in versions()], "a first version")
    assert lab.status(run) is RunStatus.APPLYING
    assert early[0][::2] == (1, 1)
    gate.touch()
    applying.result()
    assert lab.status(run) is RunStatus.APPLIED
    [version] = versions()
    assert (version.number, version.resources) == (1, 2)
    assert version.serial > early[0][1]
    assert db.session.get(Blob, early[0][3]) is None, "the blob of the early state is gone"


def test_a_state_that_an_older_version_has_as_well_becomes_the_current_one(bench: Bench, tmp_path: Path) -> None:
    """What a destroy leaves is the same each time, byte by byte; somebody brought back the state before it."""
    gate = tmp_path / "gate"
    gate.touch()
    bench.applied(some(gate, 1))
    bench.applied(some(gate, 0))
    _, first = states.content(bench.environment, 1)
    name = bench.environment.name
    state_writes.upload(factories.member(), bench.environment, first, force=True, typed_name=name)
    gate.unlink()
    run = bench.confirmed(some(gate, 0))
    applying = bench.start(run.apply)
    lab.until(lambda: [version.resources for version in versions()] == [3, 1, 3, 2], "the state amid the destroy")
    gate.touch()
    applying.result()
    assert lab.status(run) is RunStatus.APPLIED, run.error
    assert [version.resources for version in versions()] == [3, 1, 3, 1]
    assert versions()[3].md5 == versions()[1].md5, "or else this proves nothing"
    again = bench.run(some(gate, 0))
    assert bench.work(again.plan) is RunStatus.PLANNED_AND_FINISHED


def some(gate: Path, count: int) -> str:
    """One resource that stays and two that may go: the first at once, the second when the file ``gate`` is there."""
    wait = f"for _ in $(seq 600); do test -e {gate} && exit 0; sleep 0.1; done; exit 1"
    return f"""{ONE}
resource "terraform_data" "last" {{
  count = {count}
  provisioner "local-exec" {{
    when    = destroy
    command = {hcl(wait)}
  }}
}}
resource "terraform_data" "first" {{
  count      = {count}
  depends_on = [terraform_data.last]
}}
"""


def test_states_plans_and_configurations_are_encrypted_at_rest(bench: Bench) -> None:
    run = bench.applied('resource "terraform_data" "canary" {\n  input = "canary-in-the-state"\n}\n')
    assert b"canary-in-the-state" in blobs.get(versions()[0].blob_id)
    rows = list(db.session.query(Blob))
    assert {row.kind for row in rows} == {"configuration", "plan", "state"}
    for row in rows:
        assert b"canary" not in (row.data or b"")
        assert b"terraform" not in (row.data or b"")
    assert run.plan_blob_id is not None
    assert hashlib.sha256(blobs.get(run.plan_blob_id)).hexdigest() == run.plan_digest


# -- plans that are not applied ----------------------------------------------------------------------------------------


def refused(bench: Bench, run: Run, code: str, part: str) -> None:
    """The confirmed apply ends with this error and changes nothing."""
    before = [(v.number, v.serial) for v in versions()]
    runs.confirm(factories.member(), run)
    assert bench.work(run.apply) is RunStatus.ERRORED
    assert run.error_code == code
    assert part in run.error
    assert "Queue a new plan." in run.error
    assert [(v.number, v.serial) for v in versions()] == before
    assert "Apply complete" not in lab.log_of(run.apply)
    assert bench.environment.active_run_id != run.id


def test_a_stale_plan_is_refused(bench: Bench) -> None:
    first = bench.applied(ONE)
    run = bench.planned(TWO)
    state = json.loads(states.content(bench.environment, 1)[1])
    state["serial"] += 1
    states.store(first, json.dumps(state).encode())
    db.session.commit()
    refused(bench, run, "stale_plan", "The plan is stale: the state changed after it was made.")


def test_an_altered_plan_is_refused(bench: Bench) -> None:
    run = bench.planned(ONE)
    other = bench.run(TWO)
    run.plan_blob_id = blobs.put("plan", b"another plan").id
    db.session.commit()
    refused(bench, run, "plan_altered", "The saved plan is not the one that was shown.")
    assert "Initializing" not in lab.log_of(run.apply)
    assert lab.status(other) is RunStatus.PLAN_QUEUED


def test_a_plan_whose_bytes_were_changed_is_refused(bench: Bench) -> None:
    run = bench.planned(ONE)
    blob = db.session.get_one(Blob, run.plan_blob_id)
    assert blob.data is not None
    blob.data = blob.data[:-1] + bytes([blob.data[-1] ^ 1])
    db.session.commit()
    refused(bench, run, "plan_unreadable", "The saved plan cannot be read.")


def test_another_terraform_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.planned(ONE)
    monkeypatch.setattr(terraform, "version", lambda _program: "9.9.9")
    refused(bench, run, "terraform_changed", f"The plan was made with Terraform {run.terraform_version}, this is 9.9.9")


def test_no_terraform_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.run(ONE)
    bench.settings(monkeypatch, terraform_bin="/nonexistent/terraform")
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "terraform_missing"


# -- a backend of its own ----------------------------------------------------------------------------------------------


class _Backend(BaseHTTPRequestHandler):
    """What terraform's `http` backend speaks to."""

    state: dict[str, bytes]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(200 if "state" in self.state else 404, self.state.get("state", b""))

    def do_POST(self) -> None:
        self.state["state"] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def http_backend() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A backend, its address and what it keeps."""
    kept: dict[str, bytes] = {}
    handler = type("Backend", (_Backend,), {"state": kept})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/state", kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_backend_of_its_own_is_left_alone(bench: Bench) -> None:
    with http_backend() as (address, kept):
        run = bench.applied(f'terraform {{\n  backend "http" {{\n    address = "{address}"\n  }}\n}}\n' + ONE)
        assert json.loads(kept["state"])["resources"][0]["name"] == "one"
    assert run.own_backend == "http"
    assert "names a backend of its own: Lockstep neither keeps nor changes its state" in lab.log_of(run.plan)
    assert versions() == []


def test_a_backend_that_takes_no_state_leaves_the_newest_on_the_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever planned now would create everything a second time: nothing is called saved, and no plan is asked for."""
    monkeypatch.setattr(_Backend, "do_POST", lambda self: self._answer(403, b""))
    fails = """resource "terraform_data" "late" {
  depends_on = [terraform_data.one]
  provisioner "local-exec" {
    command = "echo ExpiredToken >&2; exit 1"
  }
}
"""
    with http_backend() as (address, _):
        own = f'terraform {{\n  backend "http" {{\n    address = "{address}"\n  }}\n}}\n'
        run = bench.planned(own + ONE + fails)
        runs.confirm(factories.member(), run)
        assert bench.work(run.apply) is RunStatus.ERRORED
    [folder] = bench.workdirs()
    where = bench.home / "work" / folder
    assert "ExpiredToken" in lab.log_of(run.apply), "or else this proves nothing"
    assert (run.error_code, run.error) == (
        "state_unkept",
        "The MFA session ended during the run. "
        f"Terraform’s state could not be stored. It stays on the worker’s machine, in {where}.",
    )
    [kept] = where.rglob("errored.tfstate")
    assert "one" in {one["name"] for one in json.loads(kept.read_bytes())["resources"]}
    shutil.rmtree(where)


def test_a_local_backend_is_kept_like_none(bench: Bench) -> None:
    run = bench.applied('terraform {\n  backend "local" {\n    path = "/tmp/elsewhere.tfstate"\n  }\n}\n' + ONE)
    assert run.own_backend is None
    assert not Path("/tmp/elsewhere.tfstate").exists()
    assert [v.resources for v in versions()] == [1]


@pytest.mark.parametrize("name", ["backend_override.tf", "override.tf"])
def test_an_override_to_a_local_backend_is_kept_here_too(bench: Bench, name: str) -> None:
    """Many have one beside them, to try things without the bucket."""
    files = {
        "main.tf": ONE,
        "backend.tf": 'terraform {\n  backend "s3" {}\n}\n',
        name: 'terraform {\n  backend "local" {}\n}\n',
    }
    run = bench.applied(files)
    assert run.own_backend is None
    assert [v.resources for v in versions()] == [1]
    again = bench.run(files)
    assert bench.work(again.plan) is RunStatus.PLANNED_AND_FINISHED, again.error


@pytest.mark.parametrize("lineage", ["its own", "another"])
def test_a_state_that_came_with_the_configuration_is_not_the_runs(bench: Bench, lineage: str) -> None:
    """As `tar` packs it after a save that was refused: terraform leaves errored.tfstate beside the configuration."""
    bench.applied(ONE)
    (first,) = versions()
    stray = {"version": 4, "serial": 9, "lineage": "another", "outputs": {}, "resources": []}
    if lineage == "its own":
        stray = json.loads(blobs.get(first.blob_id)) | {"serial": 9}
    run = bench.applied({"main.tf": TWO, "errored.tfstate": json.dumps(stray)})
    assert run.status is RunStatus.APPLIED, run.error
    newest = versions()[-1]
    assert (newest.run_id, newest.resources, newest.lineage) == (run.id, 2, first.lineage)


# -- a folder without a configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"repo-main/main.tf": ONE},
        {"main.tofu": ONE},
        {"override.tf": "locals {}\n", "repo-main/main.tf": ONE},
    ],
)
def test_a_folder_with_nothing_to_run_plans_no_destruction(bench: Bench, files: dict[str, str]) -> None:
    bench.applied(ONE)
    run = bench.run(files)
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error_code == "no_configuration"
    assert run.error == (
        "The top folder of the configuration has no files that Terraform reads (.tf or .tf.json). "
        "Correct the Terraform directory in Settings. Nothing was run."
    )


def test_a_terraform_directory_with_nothing_to_run_plans_no_destruction(bench: Bench) -> None:
    bench.applied(ONE)
    bench.environment.terraform_directory = "live"
    db.session.commit()
    run = bench.run({"live/network/main.tf": ONE})
    assert bench.work(run.plan) is RunStatus.ERRORED
    assert run.error is not None and run.error.startswith("The folder live of the configuration has no files")
