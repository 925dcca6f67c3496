"""Real terraform with the real AWS provider, on the sample configurations, through the stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.aws.server import Standin, running
from tests.support.mirror import provider_mirror, write_cli_config
from tests.unit.demo.conftest import Keys, authenticate, long_lived

CONFIGURATIONS = Path(__file__).resolve().parents[3] / "demo" / "configurations"
ENVIRONMENT_NAMES = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}

pytestmark = pytest.mark.aws


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Standin]:
    with running(tmp_path / "aws") as started:
        started.warm_up()
        yield started


class Workspace:
    """A sample configuration in a folder of its own."""

    def __init__(self, folder: Path, sample: str, standin: Standin) -> None:
        shutil.copytree(CONFIGURATIONS / sample, folder / "configuration")
        program = shutil.which("terraform") or shutil.which("tofu")
        assert program, "terraform or tofu must be on PATH"
        self._program = program
        self._folder = folder
        self._standin = standin
        self._variables = {
            "TF_VAR_bucket_name": "sample-bucket",
            "TF_VAR_role_arn": standin.roles["lockstep-deploy"].arn,
        }

    def run(self, keys: Keys, command: str, *arguments: str) -> tuple[int, str]:
        """Exit code and output of one terraform command with these credentials."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "TF_CLI_CONFIG_FILE": str(write_cli_config(self._folder / "terraform.rc", provider_mirror())),
            "AWS_ENDPOINT_URL": self._standin.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            **self._variables,
            **{ENVIRONMENT_NAMES[name]: value for name, value in keys.items()},
        }
        done = subprocess.run(
            [self._program, command, "-no-color", "-input=false", *arguments],
            cwd=self._folder / "configuration",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout


def test_a_bucket_is_planned_without_and_applied_with_a_code(tmp_path: Path, warm: Standin) -> None:
    """`applies only`: the plan asks AWS only who the caller is."""
    workspace = Workspace(tmp_path, "bucket", warm)
    own = long_lived(warm)
    assert workspace.run(own, "init")[0] == 0
    code, output = workspace.run(own, "plan", "-out=plan")
    assert code == 0, output
    code, output = workspace.run(own, "apply", "plan")
    assert code == 1 and "AccessDenied" in output
    assert warm.bucket_names() == []
    # The failed apply wrote a state, which makes its plan stale.
    assert workspace.run(own, "plan", "-out=plan")[0] == 0
    session = authenticate(warm)
    code, output = workspace.run(session, "apply", "plan")
    assert code == 0, output
    assert warm.bucket_names() == ["sample-bucket"]
    code, output = workspace.run(session, "destroy", "-auto-approve")
    assert code == 0, output
    assert warm.bucket_names() == []


def test_the_greetings_need_no_aws(tmp_path: Path, warm: Standin) -> None:
    workspace = Workspace(tmp_path, "hello", warm)
    assert workspace.run({}, "init")[0] == 0
    assert workspace.run({}, "plan", "-out=plan", "-detailed-exitcode")[0] == 2
    code, output = workspace.run({}, "apply", "plan")
    assert code == 0 and "Hello, alice!" in output
    assert workspace.run({}, "plan", "-detailed-exitcode")[0] == 0
    assert warm.calls == []
