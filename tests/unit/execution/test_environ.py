"""The environment of a terraform process."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.execution.environ import DEFAULT_PATH, child_environment
from services.mfa.credentials import TemporaryCredentials

HOME = Path("/data/work/phase-1-1/home")
FIXED = {
    "PATH": DEFAULT_PATH,
    "HOME": str(HOME),
    "TMPDIR": "/data/work/phase-1-1/tmp",
    "LANG": "C.UTF-8",
    "TF_IN_AUTOMATION": "1",
    "TF_INPUT": "0",
    "CHECKPOINT_DISABLE": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SESSION = TemporaryCredentials("ASIAEXAMPLE", "temporary-secret", "token", datetime(2030, 1, 1, tzinfo=UTC))
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "long-lived-secret",
    "AWS_MFA_SERIAL_NUMBER": "arn:aws:iam::123456789012:mfa/alice",
}


def plain(operator: dict[str, str], variables: dict[str, str]) -> dict[str, str]:
    return child_environment(home=HOME, operator=operator, variables=variables, credentials=None, gated=False)


def test_nothing_of_the_server_passes_but_what_is_listed() -> None:
    listed = {
        "PATH": "/opt/bin:/usr/bin",
        "TF_CLI_CONFIG_FILE": "/etc/terraformrc",
        "HTTPS_PROXY": "http://proxy",
        "NO_PROXY": "127.0.0.1",
        "ALL_PROXY": "socks5://proxy",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:3",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "AWS_CA_BUNDLE": "/etc/ca.pem",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:2",
        "AWS_USE_FIPS_ENDPOINT": "true",
    }
    others = "SECRET_KEY ENCRYPTION_KEYS DATABASE_URL LOCKSTEP_HOME AWS_PROFILE AWS_ACCESS_KEY_ID LD_PRELOAD"
    others += " AWS_SESSION_TOKEN AWS_SECURITY_TOKEN TF_LOG TF_VAR_x PYTHONPATH HOME no_proxy"
    assert plain(listed | dict.fromkeys(others.split(), "of the server"), {}) == FIXED | listed


def test_variables_of_the_run() -> None:
    assert plain({}, {"AWS_REGION": "eu-central-1", "TF_VAR_x": "1", "LANG": "de_DE.UTF-8"}) == FIXED | {
        "AWS_REGION": "eu-central-1",
        "TF_VAR_x": "1",
        "LANG": "de_DE.UTF-8",
    }
    refused = [
        "PATH",
        "HOME",
        "LD_PRELOAD",
        "TF_CLI_CONFIG_FILE",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
        "TF_INPUT",
    ]
    refused += [
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "TF_WORKSPACE",
        "TF_DATA_DIR",
        "not a name",
        "https_proxy",
    ]
    assert plain({}, dict.fromkeys(refused, "of the run")) == FIXED
    arguments = {"TF_CLI_ARGS_plan": "-parallelism=3", "TF_CLI_ARGS_apply": "-state=/elsewhere"}
    assert plain({}, arguments) == FIXED | {"TF_CLI_ARGS_plan": "-parallelism=3"}


def test_without_a_gate_the_long_lived_keys_pass_but_never_the_serial() -> None:
    keys = {name: value for name, value in KEYS.items() if name != "AWS_MFA_SERIAL_NUMBER"}
    assert plain({}, KEYS) == FIXED | keys


def test_under_a_gate_only_the_temporary_credentials_pass() -> None:
    environment = child_environment(home=HOME, operator={}, variables=KEYS, credentials=SESSION, gated=True)
    assert environment == FIXED | {
        "AWS_ACCESS_KEY_ID": "ASIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "temporary-secret",
        "AWS_SESSION_TOKEN": "token",
    }


@pytest.mark.parametrize(("credentials", "gated"), [(None, True), (SESSION, False)])
def test_gate_and_credentials_belong_together(credentials: TemporaryCredentials | None, gated: bool) -> None:
    with pytest.raises(ValueError, match="gated") as refusal:
        child_environment(home=HOME, operator={}, variables=KEYS, credentials=credentials, gated=gated)
    assert "secret" not in str(refusal.value)
