"""deploy/venv.sh on machines where something is missing, played by small scripts on PATH."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.launcher import ROOT

#: Answers the questions that venv.sh asks a Python, as one of that version and with that pip would.
FAKE = """#!/bin/sh
case "$*" in
    *"not (True)"*) exit 0 ;;
    *"(3, 11)"*) [ {minor} -ge 11 ] ;;
    *"(3, 13)"*) [ {minor} -ge 13 ] ;;
    *sys.version_info*) echo 3.{minor} ;;
    *ensurepip*) {venv} ;;
    *"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
    *"pip install"*) {pip} ;;
    *"pip --version"*) exit 0 ;;
    --version) echo "Python 3.{minor}.0" ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that is all of PATH, with the few tools that the script uses."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("cp", "grep", "mkdir", "mktemp", "rm", "sh", "tail"):
        found = next(Path(place) / tool for place in ("/usr/bin", "/bin") if (Path(place) / tool).exists())
        (folder / tool).symlink_to(found)
    return folder


def python(machine: Path, name: str, minor: int, venv: str = "exit 0", pip: str = "exit 0") -> None:
    path = machine / name
    path.write_text(FAKE.format(minor=minor, venv=venv, pip=pip))
    path.chmod(0o755)


def install(machine: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "deploy" / "venv.sh", "requirements.txt"],
        cwd=machine.parent,
        env={"PATH": str(machine), "TMPDIR": str(machine.parent), **settings},
        capture_output=True,
        text=True,
        timeout=30,
    )


def refusal(machine: Path, **settings: str) -> str:
    done = install(machine, **settings)
    assert done.returncode == 1
    return done.stderr


def test_it_is_quiet_when_all_goes_well(machine: Path) -> None:
    python(machine, "python3", 12)
    done = install(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Making .venv with Python 3.12.0 …\nInstalling requirements.txt …\n"


def test_it_is_made_once(machine: Path) -> None:
    python(machine, "python3", 12)
    install(machine)
    assert install(machine).stdout == "Installing requirements.txt …\n"


def test_no_python(machine: Path) -> None:
    assert refusal(machine).startswith("Lockstep needs Python 3.11 or newer; none of python3, ")


def test_an_old_python(machine: Path) -> None:
    python(machine, "python3", 9)
    said = "Lockstep needs Python 3.11 or newer; this machine has 3.9. Set PYTHON to a newer one.\n"
    assert refusal(machine) == said


def test_a_newer_python_beside_an_old_one(machine: Path) -> None:
    python(machine, "python3", 9)
    python(machine, "python3.11", 11)
    assert install(machine).stdout.startswith("Making .venv with Python 3.11.0")


def test_a_python_without_a_bundled_redis_comes_after_one_with(machine: Path) -> None:
    python(machine, "python3", 13)
    python(machine, "python3.12", 12)
    assert install(machine).stdout.startswith("Making .venv with Python 3.12.0")


def test_a_python_without_a_bundled_redis_alone(machine: Path) -> None:
    python(machine, "python3", 13)
    assert refusal(machine).startswith("Python 3.13 needs redis-server on PATH")
    assert install(machine, REDIS_URL="redis://there").returncode == 0
    python(machine, "redis-server", 0)
    (machine.parent / ".venv").rename(machine.parent / "former")
    assert install(machine).returncode == 0


def test_no_venv_module(machine: Path) -> None:
    python(machine, "python3", 11, venv="exit 1")
    assert refusal(machine) == (
        "python3 has no venv module. Install it (Debian: apt install python3-venv) and try again.\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "error: command 'gcc' failed: No such file or directory",
        "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory",
        "FileNotFoundError: [Errno 2] No such file or directory: 'make'",
    ],
)
def test_no_compiler(machine: Path, line: str) -> None:
    python(machine, "python3", 11, pip=f'echo "{line}"; exit 1')
    *shown, last = refusal(machine).splitlines()
    assert shown == [line]
    assert last.startswith("A package has no wheel for this machine and no compiler is here.")


def test_no_network(machine: Path) -> None:
    python(machine, "python3", 11, pip="echo 'Failed: Temporary failure in name resolution'; exit 1")
    assert "The package index cannot be reached." in refusal(machine)


def test_pip_is_shown_when_it_fails(machine: Path) -> None:
    python(machine, "python3", 11, pip="echo one; echo two; exit 1")
    assert refusal(machine) == "one\ntwo\npip could not install requirements.txt; the lines above say why.\n"
