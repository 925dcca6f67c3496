"""`make demo`: nothing in it reaches what is real, and a second start finds everything again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import demo_stack
from deploy.supervisor import Failed
from policy.settings import SETTINGS
from tests.deploy.launcher import ROOT, Launched, launched, wait_until


def test_settings_that_lead_outside_are_left_aside() -> None:
    outside = {
        "DATABASE_URL": "postgresql://real",
        "DATABASE_URL_FILE": "/real",
        "REDIS_URL": "redis://real",
        "BLOB_STORE": "s3://real",
        "BLOB_STORE_ENDPOINT": "http://real",
        "SECRET_KEY": "real",
        "ENCRYPTION_KEYS": "real",
        "AWS_PROFILE": "real",
        "AWS_ACCESS_KEY_ID": "real",
        "AWS_ENDPOINT_URL_STS": "https://real",
        "SMTP_URL": "smtps://real",
        "SMTP_URL_FILE": "/real",
        "MAIL_FROM": "lockstep@real",
        "PUBLIC_URL": "https://real",
        "OIDC_ISSUER": "https://real",
        "OIDC_CLIENT_ID": "real",
        "OIDC_CLIENT_SECRET": "real",
        "OIDC_CLIENT_SECRET_FILE": "/real",
        "OIDC_NAME": "real",
        "PASSWORD_SIGN_IN": "off",
        "TF_CLI_CONFIG_FILE_FILE": "/real",
        "CREDENTIALS_DIRECTORY": "/real",
    }
    env = demo_stack.environment({**outside, "PORT": "8001", "NO_PROXY": "corp"})
    assert env["PORT"] == "8001"
    assert env["LOCKSTEP_HOME"] == "data-demo"
    assert env["NO_PROXY"] == "corp,127.0.0.1,localhost"
    assert "real" not in " ".join(env.values())
    assert "PASSWORD_SIGN_IN" not in env, "nobody could sign in without the provider"


#: What the demo takes from the shell: where it listens and lives, its sizes, and how its machine reaches the network.
TAKEN = {
    "LOCKSTEP_HOME", "HOST", "PORT", "TERRAFORM_BIN", "TERRAFORM_SANDBOX", "TERRAFORM_SANDBOX_PATHS", "WEB_PROCESSES",
    "WEB_THREADS", "WORKERS", "PLAN_MINUTES", "APPLY_MINUTES", "FORCE_AFTER_SECONDS", "LOG_KEEP_DAYS", "LOG_KEEP_RUNS",
    "TRUSTED_HOSTS", "TRUSTED_PROXIES", "MAX_ARCHIVE_MB", "MAX_UNPACKED_MB", "MAX_ARCHIVE_FILES", "MAX_STATE_MB",
    "LOG_LEVEL", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE",
    "SSL_CERT_DIR",
}  # fmt: skip


def test_each_setting_is_either_taken_or_left_aside() -> None:
    """A new one has to be thought about: does it lead to something that is somebody's?"""
    given = {setting.name: "x" for setting in SETTINGS}
    assert given.keys() & demo_stack.environment(given).keys() == TAKEN


def test_a_data_folder_that_is_given_is_kept() -> None:
    assert demo_stack.environment({"LOCKSTEP_HOME": "/here"})["LOCKSTEP_HOME"] == "/here"


def test_the_demo_does_not_start_on_an_installation(tmp_path: Path) -> None:
    (tmp_path / "lockstep.db").touch()
    with pytest.raises(Failed, match="holds an installation"):
        demo_stack.check_folder(tmp_path, demo=True)
    demo_stack.check_folder(tmp_path, demo=False)


def test_an_installation_does_not_start_on_the_demo(tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    with pytest.raises(Failed, match="holds the demo"):
        demo_stack.check_folder(tmp_path, demo=False)
    demo_stack.check_folder(tmp_path, demo=True)


@pytest.mark.stack
@pytest.mark.xdist_group("stack")
def test_a_second_start_reuses_what_is_there(tmp_path: Path) -> None:
    first, second = (_start_and_end(tmp_path / "home", tmp_path / f"output-{n}") for n in (1, 2))
    assert first == second
    assert set(first[0]) == {"alice", "bob"}
    assert (tmp_path / "home" / "demo.json").stat().st_mode & 0o077 == 0


def _start_and_end(home: Path, output: Path) -> tuple[dict[str, str], str]:
    with launched(home, output, "--demo", WORKERS="1", WEB_PROCESSES="1") as demo:
        demo.wait_ready()
        codes = re.search(r"MFA codes: (\S+)", _explained(demo))
        assert codes
        answer = subprocess.run(
            [sys.executable, "-m", "demo.aws", "code", "alice", "--state", str(home / "aws")],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        assert re.fullmatch(rb"\d{6}\n", answer.stdout)
        passwords = dict(re.findall(r"^  (\w+) +\w+ +password (\S+)$", demo.output, re.MULTILINE))
        kept = json.loads((home / "demo.json").read_text())["users"]
        assert passwords == {user["name"]: user["password"] for user in kept}
        return passwords, codes[1]


def _explained(demo: Launched) -> str:
    wait_until(lambda: "Ctrl-C ends everything" in demo.output, 10, "it does not explain itself")
    return demo.output
