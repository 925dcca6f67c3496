"""What `make demo` adds to `make run`: its own data folder, the AWS stand-in and the sample organization."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.processes import Child
from deploy.supervisor import Failed, Supervisor, say

#: A fresh stand-in makes its users, buckets and roles first.
STANDIN_SECONDS = 60.0
#: Settings that lead out of the demo's own data folder, to data, people or an AWS that are somebody's; and the CLI
#: configuration of Terraform, of which the demo writes its own.
_OUTSIDE = frozenset((
    "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ENCRYPTION_KEYS", "TF_CLI_CONFIG_FILE",
    "BLOB_STORE", "BLOB_STORE_ENDPOINT", "BLOB_STORE_REGION",
    "SMTP_URL", "MAIL_FROM", "PUBLIC_URL",
    "OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_NAME", "PASSWORD_SIGN_IN",
))  # fmt: skip


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of the demo: nothing in it reaches a real database, Redis, mail server, provider or AWS."""
    outside = {*_OUTSIDE, *(f"{name}_FILE" for name in _OUTSIDE), "CREDENTIALS_DIRECTORY"}
    env = {name: value for name, value in given.items() if name not in outside and not name.startswith("AWS_")}
    if not (env.get("LOCKSTEP_HOME") or env.get("LOCKSTEP_HOME_FILE")):
        env["LOCKSTEP_HOME"] = "data-demo"
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, [env.get(name), "127.0.0.1", "localhost"]))
    return env


def check_folder(home: Path, demo: bool) -> None:
    """Refuse to mix the demo, whose passwords are for show, with an installation. Raises :class:`Failed`."""
    sample = _state(home).exists()
    used = (home / "lockstep.db").exists()
    if demo and used and not sample:
        raise Failed(f"{home} holds an installation. Set LOCKSTEP_HOME to another folder for the demo.")
    if sample and not demo:
        raise Failed(f"{home} holds the demo. Set LOCKSTEP_HOME to another folder, or start `make demo`.")


def start(supervisor: Supervisor, home: Path, env: Mapping[str, str], logs: Path) -> dict[str, str]:
    """Start the AWS stand-in and wait until it listens; returns the settings that lead Lockstep to it."""
    state, ready = _state(home), home / "aws.ready"
    state.mkdir(mode=0o700, exist_ok=True)
    ready.unlink(missing_ok=True)
    kept = home / "aws.port"
    port = _free_port(kept.read_text() if kept.exists() else "")
    arguments = ["serve", "--port", str(port), "--state", str(state), "--ready-file", str(ready)]
    standin = Child("aws", [sys.executable, "-m", "demo.aws", *arguments], env, logs, stage=1)
    supervisor.start([standin])
    supervisor.wait_until(ready.exists, STANDIN_SECONDS, "The AWS stand-in does not answer.")
    kept.write_text(f"{port}\n")
    # One without a mirror downloads the AWS provider, as terraform does without any configuration.
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "TF_CLI_CONFIG_FILE": str(_cli_config(home))}


def seed(supervisor: Supervisor, env: Mapping[str, str], logs: Path) -> None:
    """Make the sample organization where it is not there yet."""
    supervisor.run_once(Child("sample", [sys.executable, "-m", "demo.sample"], env, logs))


def explain(home: Path) -> None:
    """Print who can sign in, where their codes are and what there is to see, from what demo.sample wrote."""
    try:
        sample: dict[str, Any] = json.loads((home / "demo.json").read_text())
    except FileNotFoundError:
        raise Failed(f"An earlier start was stopped half-way. Remove {home} and start again.") from None
    say("")
    for user in sample["users"]:
        say(f"  {user['name']:<8} {user.get('role', ''):<8} password {user['password']}")
    codes = f"http://127.0.0.1:{(home / 'aws.port').read_text().strip()}/_standin/"
    say(f"  MFA codes: {codes} or `make code USER={sample['users'][0]['name']}`")
    say("")
    for environment in sample.get("environments", []):
        say(f"  {environment['name']:<20} {environment.get('about', '')}".rstrip())
    say("")


def _state(home: Path) -> Path:
    return home / "aws"


def _free_port(kept: str) -> int:
    """The port of the last start where it is free, so that the address stays; else another one."""
    for port in (int(kept) if kept.strip().isdigit() else 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failed("No port is free for the AWS stand-in.")


def _cli_config(home: Path) -> Path:
    # Imported here: an installation without the demo loads nothing of it.
    from demo import mirror

    path = home / "terraform.rc"
    try:
        return mirror.write_cli_config(path, mirror.provider_mirror())
    except mirror.MirrorMissing:
        path.write_text("disable_checkpoint = true\n")
        return path
