"""The environment of a terraform process: an allow-list, never what Lockstep itself was started with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from policy.variables import check_name, check_value
from services.mfa.credentials import TemporaryCredentials

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

FROM_OPERATOR = re.compile(
    r"TF_CLI_CONFIG_FILE|SSL_CERT_FILE|SSL_CERT_DIR|AWS_CA_BUNDLE|AWS_USE_FIPS_ENDPOINT"
    r"|AWS_ENDPOINT_URL(_[A-Z0-9_]+)?|(HTTPS?|NO|ALL)_PROXY"
)
"""Settings of the operator that reach terraform: where its mirror, the proxy and AWS are."""

LONG_LIVED = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})
NEVER = frozenset(
    {
        # Only Lockstep's own STS call needs the device; terraform could not ask for a code anyway.
        "AWS_MFA_SERIAL_NUMBER",
        # Minted here or not at all: a stale token turns good keys into InvalidClientTokenId.
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        # With another workspace the state would be written beside the file that is kept.
        "TF_WORKSPACE",
    }
)


def child_environment(
    *,
    home: Path,
    operator: Mapping[str, str],
    variables: Mapping[str, str],
    credentials: TemporaryCredentials | None,
    gated: bool,
) -> dict[str, str]:
    """Exactly what a terraform process gets to see.

    `home` is a private empty folder, with the folder `tmp` beside it (`Workdir`); `operator` are
    Lockstep's own settings, of which only `FROM_OPERATOR` and PATH pass; `variables` are the run's environment
    variables, resolved for the acting person. With `gated`, the long-lived keys are left out and the
    temporary credentials take their place. Raises ValueError when a gated child has no credentials or an
    ungated one is given some: either would run with the wrong identity.
    """
    if gated != (credentials is not None):
        raise ValueError("A gated command needs temporary credentials, and only a gated one gets them.")
    environment = {name: value for name, value in variables.items() if _passes(name, value)}
    if credentials is not None:
        for name in LONG_LIVED:
            environment.pop(name, None)
        environment["AWS_ACCESS_KEY_ID"] = credentials.access_key_id
        environment["AWS_SECRET_ACCESS_KEY"] = credentials.secret_access_key
        environment["AWS_SESSION_TOKEN"] = credentials.session_token
    environment.setdefault("LANG", "C.UTF-8")
    environment.update((name, value) for name, value in operator.items() if FROM_OPERATOR.fullmatch(name))
    environment.update(
        PATH=operator.get("PATH") or DEFAULT_PATH,
        HOME=str(home),
        TMPDIR=str(home.parent / "tmp"),
        TF_IN_AUTOMATION="1",
        TF_INPUT="0",
        CHECKPOINT_DISABLE="1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    return environment


def _passes(name: str, value: str) -> bool:
    """Whether a variable may reach terraform; forms refuse the others already, this is the second look."""
    if name in NEVER or check_name(name, "env") is not None:
        return False
    # Flags such as -state or -out in these would undo what Lockstep arranged.
    return not name.startswith("TF_CLI_ARGS") or check_value(name, "env", value) is None
