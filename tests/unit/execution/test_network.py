"""What the kernel refuses a run, by every way to an address; and how a command comes to be where it does."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from services.execution import network, walls
from services.execution import terraform as tf
from services.execution.network_programs import METADATA, Rules
from tests.support import connections
from tests.support.enclosure import enclosed
from tests.unit.execution.conftest import MakeBench

PORT, OTHER = 8000, 4566
SHELL = tf.Terraform(("/bin/sh", "-c"), "terraform")


@pytest.fixture
def anew() -> Iterator[None]:
    """Nothing is remembered from before, nor for later."""
    network._enclosure.cache_clear()
    yield
    network._enclosure.cache_clear()


def tried(rules: Rules) -> tuple[dict[str, str], dict[str, str]]:
    """How each try ended, outside and inside, in a network namespace of its own."""
    with enclosed(rules) as folder:
        program = [sys.executable, connections.__file__, str(folder), str(PORT), str(OTHER)]
        answer = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    outside, inside = json.loads(answer.stdout)
    return outside, inside


def test_exactly_what_the_rules_name_is_refused_by_every_way() -> None:
    outside, inside = tried(Rules((5432, PORT)))
    assert set(outside.values()) == {"open"}, "each of them can succeed"
    wanted = {}
    for name in outside:
        way, host, port = name.rsplit(" ", 2)
        address = host.removeprefix("::ffff:")
        own = address in connections.LOOPBACK and int(port) == PORT and "udp" not in way
        wanted[name] = "EPERM" if address in connections.METADATA or own else "open"
    assert inside == wanted
    assert len(wanted) > 150 and list(wanted.values()).count("open") > 50


def test_what_the_operator_named_is_spared_on_its_port_alone() -> None:
    spared = ((ip_address("169.254.169.254"), 80), (ip_address("fd00:ec2::254"), 80))
    outside, inside = tried(Rules((), spared))
    refused = {name for name, ending in inside.items() if ending == "EPERM"}
    for way in connections.WAYS:
        for host in ("169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"):
            assert f"{way} {host} 80" not in refused and f"{way} {host} 81" in refused
        assert f"{way} 169.254.170.2 80" in refused and f"{way} fd00:ec2::23 80" in refused
    assert not any(f" {PORT}" in name for name in refused)
    assert set(outside.values()) == {"open"}


def test_the_addresses_are_those_that_are_tried() -> None:
    assert tuple(map(str, METADATA)) == connections.METADATA


def test_a_command_is_in_the_cgroup_before_it_begins(make_bench: MakeBench) -> None:
    with enclosed(Rules((PORT,))) as folder:
        bench = make_bench(SHELL)
        assert bench.sandbox is not None
        bench.sandbox = dataclasses.replace(bench.sandbox, cgroup=folder)
        assert bench.run("cat /proc/self/cgroup", step="cat") == 0, bench.output()
    assert f"/{folder.name}\n" in bench.output()


def test_nothing_is_started_outside_of_it(make_bench: MakeBench, tmp_path: Path) -> None:
    """Where the cgroup went away at the last moment."""
    bench = make_bench(SHELL)
    assert bench.sandbox is not None
    bench.sandbox = dataclasses.replace(bench.sandbox, cgroup=tmp_path / "gone")
    with pytest.raises(tf.ChildNotStarted):
        bench.start("cat /proc/self/cgroup", step="cat")
    assert bench.output() == "The command could not be put into its cgroup.\n"
    assert not (bench.workdir.control / "cat.pid").exists()


def test_a_reading_command_has_no_network(make_bench: MakeBench) -> None:
    assert walls.find_walls("auto").offline, "as everywhere where the tests run"
    bench = make_bench(SHELL)
    answer = tf.capture(
        bench.terraform,
        ["readlink /proc/self/ns/net"],
        cwd=bench.workdir.cwd,
        env=bench.env,
        timeout=20,
        sandbox=bench.sandbox,
    )
    here = os.readlink("/proc/self/ns/net")
    assert answer.decode().startswith("net:[") and answer.decode().strip() != here
    assert bench.run("readlink /proc/self/ns/net", step="readlink") == 0
    assert bench.output().strip() == here, "a command of a run has the machine's"


def test_without_rights_over_the_network_a_sandbox_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried_ = walls._made, []

    def attempt(program: str, *, offline: bool) -> tuple[int | None, str]:
        tried_.append(offline)
        refused = "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted"
        return (1, refused) if offline else real(program, offline=offline)

    monkeypatch.setattr(walls, "_made", attempt)
    monkeypatch.setattr(walls, "_known", [])
    found = walls._tried()
    assert (tried_, found.offline, bool(found.bwrap)) == ([True, False], False, True)


@pytest.mark.usefixtures("anew")
def test_it_is_made_once_and_again_where_it_is_gone() -> None:
    rules = Rules((PORT, 1))
    with enclosed(rules) as folder:
        network._enclosure.cache_clear()
        assert network.enclosure(rules).folder == folder, "another worker finds the same"
        folder.rmdir()
        assert network.enclosure(rules).folder == folder and folder.is_dir()
        folder.rmdir()
        folder.mkdir()
        number = folder.stat().st_ino
        assert network.enclosure(rules).number == number, "one without programs is not taken for it"
        with enclosed(Rules((PORT,))) as other:
            assert other != folder


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("user", "only a worker that is root may do that."),
        ("machine", "the kernel's numbers for riscv64 are not known here."),
        ("cgroup", "there is no cgroup (v2) of the worker's to be seen."),
        ("folder", "the kernel does not let the worker: Not a directory."),
    ],
)
def test_where_there_can_be_none_it_is_said(
    what: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000 if what == "user" else 0)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64" if what == "machine" else "x86_64")
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(network, "_own_cgroup", lambda: file if what == "folder" else None)
    assert network.enclosure(Rules(())) == network.Enclosure(None, why)


@pytest.mark.usefixtures("anew")
def test_a_kernel_that_does_not_take_the_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gets as far as that")
    monkeypatch.setattr(network, "_own_cgroup", lambda: tmp_path)  # no cgroup, so nothing can be attached to it
    assert network.enclosure(Rules(())).why == "the kernel does not let the worker: Bad file descriptor."


def test_names_of_mount_points_are_read_as_they_are() -> None:
    assert network._spelt(r"/a\040b\134c") == r"/a b\c"
