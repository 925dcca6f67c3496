"""terraform's own http backend against a live server: the same state and the same lock as the runs here."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from werkzeug.serving import make_server

from extensions import db
from models import AuditEvent, StateSource, TokenScope
from policy.lifecycle import RunStatus
from services import runs, states, tokens
from tests import factories
from tests.support import lab
from tests.worker.configurations import ONE, TWO, held
from tests.worker.conftest import Bench

pytestmark = pytest.mark.terraform


class Terminal:
    """A person's folder with a configuration, and the variables that the page names."""

    def __init__(self, folder: Path, address: str, name: str, token: str, *, lock: bool = True) -> None:
        self.folder = folder
        folder.mkdir()
        self.env = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0", "TF_HTTP_ADDRESS": address, "TF_HTTP_USERNAME": name, "TF_HTTP_PASSWORD": token,
        }  # fmt: skip
        if lock:
            self.env |= {"TF_HTTP_LOCK_ADDRESS": address, "TF_HTTP_UNLOCK_ADDRESS": address}
        (folder / "backend_override.tf").write_text('terraform {\n  backend "http" {}\n}\n')

    def configure(self, text: str) -> None:
        (self.folder / "main.tf").write_text(text)

    def run(self, *arguments: str, code: int | None = 0) -> str:
        """Terraform's output without colours; asserts its exit code."""
        with self.start(*arguments) as done:
            try:
                output, _ = done.communicate(timeout=60)
            finally:
                done.kill()
        assert code is None or done.returncode == code, output
        return output

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["terraform", *arguments, *(["-no-color"] if arguments[:2] != ("state", "pull") else [])],
            cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


@pytest.fixture
def address(bench: Bench) -> Iterator[str]:
    """The live server's address of the environment's state."""
    server = make_server("127.0.0.1", 0, bench.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api/v1/states/acme/{bench.environment.name}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def terminal(tmp_path: Path, address: str, name: str = "alice", text: str = ONE, *, lock: bool = True) -> Terminal:
    _, token = tokens.create(factories.person(name), f"{name}'s laptop", TokenScope.QUEUE, 30)
    db.session.rollback()
    made = Terminal(tmp_path / name, address, name, token, lock=lock)
    made.configure(text)
    assert "Terraform has been successfully initialized" in made.run("init")
    return made


def versions(bench: Bench) -> list[tuple[int, StateSource, int]]:
    db.session.rollback()
    found = [(version.serial, version.source, version.resources) for version in states.versions(bench.environment)]
    db.session.rollback()
    return found


def lock_id(bench: Bench) -> str | None:
    db.session.refresh(bench.environment)
    found = bench.environment.state_lock_id
    db.session.rollback()
    return found


def test_plan_apply_pull_and_push(bench: Bench, tmp_path: Path, address: str) -> None:
    alice = terminal(tmp_path, address)
    assert "1 to add" in alice.run("plan")
    assert versions(bench) == []
    assert "1 added" in alice.run("apply", "-auto-approve")
    alice.configure(TWO)
    assert "1 added" in alice.run("apply", "-auto-approve")
    assert versions(bench) == [(2, StateSource.TERMINAL, 2), (1, StateSource.TERMINAL, 1)]
    assert lock_id(bench) is None
    pulled = alice.run("state", "pull")
    assert json.loads(pulled)["serial"] == 2
    state = json.loads(pulled) | {"serial": 3, "outputs": {"a": {"value": "b", "type": "string"}}}
    (alice.folder / "pushed.json").write_text(json.dumps(state))
    alice.run("state", "push", "pushed.json")
    assert versions(bench)[0] == (4, StateSource.TERMINAL, 2)  # terraform counts once more
    kept = [version.created_by.name for version in states.versions(bench.environment) if version.created_by]
    assert kept == ["alice"] * 3


def test_a_run_goes_on_from_a_terminal_and_a_terminal_from_a_run(bench: Bench, tmp_path: Path, address: str) -> None:
    alice = terminal(tmp_path, address)
    alice.run("apply", "-auto-approve")
    bench.applied(TWO)
    assert [version[1:] for version in versions(bench)] == [(StateSource.RUN, 2), (StateSource.TERMINAL, 1)]
    assert states.versions(bench.environment)[0].changes == {"add": 1, "change": 0, "destroy": 0}
    db.session.rollback()
    alice.configure(TWO)
    assert "No changes." in alice.run("plan")
    assert "2 destroyed" in alice.run("destroy", "-auto-approve")
    assert versions(bench)[0][1:] == (StateSource.TERMINAL, 0)


def test_the_second_terminal_gets_the_holder(bench: Bench, tmp_path: Path, address: str) -> None:
    gate = tmp_path / "gate"
    alice, bob = terminal(tmp_path, address, text=held(gate)), terminal(tmp_path, address, "bob")
    applying = alice.start("apply", "-auto-approve")
    found = lab.until(lambda: lock_id(bench), "alice's lock")
    said = bob.run("plan", code=1)
    assert "Error acquiring the state lock" in said
    assert f"HTTP remote state already locked: ID={found} (alice, apply" in " ".join(said.split())
    assert lock_id(bench) == found
    gate.touch()
    output, _ = applying.communicate(timeout=60)
    assert applying.returncode == 0, output
    assert lock_id(bench) is None
    assert "2 to destroy" in bob.run("plan")


def test_a_run_waits_for_a_terminal_and_starts_when_it_lets_go(bench: Bench, tmp_path: Path, address: str) -> None:
    gate = tmp_path / "gate"
    alice = terminal(tmp_path, address, text=held(gate))
    applying = alice.start("apply", "-auto-approve")
    lab.until(lambda: lock_id(bench), "alice's lock")
    run = bench.run(TWO)
    assert lab.status(run) is RunStatus.PENDING
    db.session.rollback()
    gate.touch()
    output, _ = applying.communicate(timeout=60)
    assert applying.returncode == 0, output
    assert lab.status(run) is RunStatus.PLAN_QUEUED
    assert bench.work(run.plan) is RunStatus.AWAITING_CONFIRMATION


def test_a_terminal_is_told_of_the_run_that_holds(bench: Bench, tmp_path: Path, address: str) -> None:
    alice = terminal(tmp_path, address)
    unlocking = terminal(tmp_path, address, "bob", lock=False)
    run = bench.planned(ONE)
    db.session.rollback()
    said = alice.run("plan", code=1)
    assert "already locked: ID=run #1 (alice) of Lockstep, apply" in " ".join(said.split())
    assert "HTTP error: 423" in unlocking.run("apply", "-auto-approve", code=1)  # it asks for no lock
    assert (unlocking.folder / "errored.tfstate").exists()
    assert versions(bench) == []
    runs.discard(factories.member(), run)
    assert "1 added" in alice.run("apply", "-auto-approve")
    assert lock_id(bench) is None


def test_force_unlock(bench: Bench, tmp_path: Path, address: str) -> None:
    alice, bob = terminal(tmp_path, address), terminal(tmp_path, address, "bob", text=held(tmp_path / "never"))
    applying = bob.start("apply", "-auto-approve")
    found = lab.until(lambda: lock_id(bench), "bob's lock")
    applying.kill()
    applying.communicate(timeout=60)
    assert lock_id(bench) == found
    alice.run("plan", code=1)
    assert "successfully unlocked" in alice.run("force-unlock", "-force", found)
    assert lock_id(bench) is None
    event = db.session.scalars(select(AuditEvent).where(AuditEvent.action == "state.force_unlock")).one()
    assert (event.actor_name, event.details) == ("alice", {"id": found, "holder": "bob"})
    db.session.rollback()
    alice.run("plan")


def test_a_member_cannot_force_the_lock_of_another(bench: Bench, tmp_path: Path, address: str) -> None:
    gate = tmp_path / "gate"
    alice, bob = terminal(tmp_path, address, text=held(gate)), terminal(tmp_path, address, "bob")
    applying = alice.start("apply", "-auto-approve")
    found = lab.until(lambda: lock_id(bench), "alice's lock")
    assert "403" in bob.run("force-unlock", "-force", found, code=1)
    gate.touch()
    applying.communicate(timeout=60)
    assert applying.returncode == 0


def test_a_wrong_token_is_told(bench: Bench, tmp_path: Path, address: str) -> None:
    alice = terminal(tmp_path, address)
    alice.env["TF_HTTP_PASSWORD"] = "lsp_wrong"
    assert "requires auth" in alice.run("plan", code=1)


def test_without_access_or_at_a_wrong_address_nothing_is_planned_as_new(
    bench: Bench, tmp_path: Path, address: str
) -> None:
    """The dangerous case is without a lock: only the answer to GET stands between terraform and a second creation."""
    terminal(tmp_path, address).run("apply", "-auto-approve")
    bob = terminal(tmp_path, address, "bob", lock=False)
    assert "No changes." in bob.run("plan", "-lock=false")
    for wrong in (f"{address}k", f"{address}/", address.rpartition("/")[0], address.replace("acme", "acne")):
        bob.env["TF_HTTP_ADDRESS"] = wrong
        assert "invalid auth" in bob.run("plan", "-lock=false", code=1), wrong
    bob.env["TF_HTTP_ADDRESS"] = address
    factories.grant(bench.environment, "bob", None)
    db.session.rollback()
    for arguments in (["plan", "-lock=false"], ["apply", "-auto-approve"]):
        said = bob.run(*arguments, code=1)
        assert "invalid auth" in said and "to add" not in said
    assert not (bob.folder / "errored.tfstate").exists()
    assert versions(bench) == [(1, StateSource.TERMINAL, 1)]


def test_a_state_that_does_not_continue_stays_with_the_person(bench: Bench, tmp_path: Path, address: str) -> None:
    """Another lineage: it is refused, and terraform keeps it beside the configuration."""
    alice = terminal(tmp_path, address)
    alice.run("apply", "-auto-approve")
    state = json.loads(alice.run("state", "pull")) | {"lineage": "another", "serial": 9}
    (alice.folder / "other.json").write_text(json.dumps(state))
    said = alice.run("state", "push", "-force", "other.json", code=1)
    assert "409" in said
    assert versions(bench) == [(1, StateSource.TERMINAL, 1)]
    assert lock_id(bench) is None
