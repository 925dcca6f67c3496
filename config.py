"""Every setting of Lockstep, typed, read once from the environment.

Each setting ``NAME`` may also be given as ``NAME_FILE``, a path whose content is the value (for secrets kept out
of the environment), and a secret one as a credential of systemd (a file ``name`` in ``$CREDENTIALS_DIRECTORY``).
Values that make no sense stop the start with one sentence: :class:`ConfigurationError`.
Their names, defaults and meanings are in policy/settings.py.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from policy import sign_in_settings
from policy.settings import OPERATOR_PASSTHROUGH, SECRET_SETTINGS
from policy.sign_in_settings import Mail, Provider
from services.storage.vault import Vault, VaultKeyError, generate_key

VERSION = "0.1.0"


class ConfigurationError(Exception):
    """A setting is missing or makes no sense; the text is one sentence for the operator."""


#: The AWS SDKs read one such name for each service; they are passed like the settings above.
_SERVICE_ENDPOINT = re.compile(r"(AWS_ENDPOINT_URL_[A-Z0-9_]+?)(_FILE)?")


@dataclass(frozen=True)
class Config:
    """The settings in force. ``repr`` shows no secret. ``kept_secrets`` are those that the data folder holds.

    ``own_secrets`` are the values of the secret settings, to be hidden wherever they turn up.
    """

    home: Path
    host: str
    port: int
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    blob_store: str | None
    blob_store_endpoint: str | None
    blob_store_region: str | None
    terraform_bin: str | None
    terraform_sandbox: str
    sandbox_paths: tuple[Path, ...]
    secret_key: str = field(repr=False)
    kept_secrets: tuple[str, ...]
    own_secrets: tuple[str, ...] = field(repr=False)
    vault: Vault = field(repr=False)
    web_processes: int
    web_threads: int
    workers: int
    plan_limit: timedelta
    apply_limit: timedelta
    force_after: timedelta
    log_keep: timedelta | None
    log_keep_runs: int
    trusted_hosts: tuple[str, ...]
    trusted_proxies: int
    public_url: str | None
    mail: Mail | None = field(repr=False)
    provider: Provider | None
    password_sign_in: bool
    max_archive_bytes: int
    max_unpacked_bytes: int
    max_archive_files: int
    max_state_bytes: int
    log_level: str
    operator: Mapping[str, str] = field(repr=False)

    @property
    def private_redis(self) -> bool:
        """Whether Redis is the one in the data folder, which no other machine reaches."""
        return self.redis_url == f"unix://{self.home / 'redis.sock'}"

    @property
    def sts_endpoint(self) -> str | None:
        """URL of STS that the operator set, None for AWS itself."""
        return self.operator.get("AWS_ENDPOINT_URL_STS") or self.operator.get("AWS_ENDPOINT_URL")

    def proxies_for(self, url: str) -> dict[str, str]:
        """The proxy for ``url`` by its scheme, empty for none: from the settings, whatever else the process has."""
        address = urlsplit(url)
        proxy = self.operator.get(f"{address.scheme.upper()}_PROXY")
        direct = [name.strip().lstrip(".") for name in self.operator.get("NO_PROXY", "").lower().split(",")]
        hosts = (address.hostname or "", address.netloc.lower())
        if not proxy or any(
            name == "*" or (name and f".{host}".endswith(f".{name}")) for name in direct for host in hosts
        ):
            return {}
        return {address.scheme: proxy}


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings.

    Makes the data folder and, on the first start, the two secrets in it (mode 0600).
    Raises :class:`ConfigurationError` with one sentence.
    """
    env = dict(os.environ if environ is None else environ)
    get = _reader(env)
    home = Path(get("LOCKSTEP_HOME") or "data").expanduser().resolve()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"LOCKSTEP_HOME {home} cannot be made: {error.strerror}.") from None
    keys = get("ENCRYPTION_KEYS") or _kept_secret(home / "encryption_keys", generate_key)
    try:
        vault = Vault.from_text(keys)
    except VaultKeyError as error:
        raise ConfigurationError(f"ENCRYPTION_KEYS: {error}") from None
    secret_key = get("SECRET_KEY") or _kept_secret(home / "secret_key", lambda: secrets.token_urlsafe(48))
    level = (get("LOG_LEVEL") or "INFO").upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigurationError("LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR.")
    return Config(
        home=home,
        host=get("HOST") or "127.0.0.1",
        port=_number(get, "PORT", 8000, 1, 65535),
        database_url=_database_url(get("DATABASE_URL"), home),
        redis_url=_redis_url(get("REDIS_URL"), home),
        blob_store=_blob_store(get("BLOB_STORE")),
        blob_store_endpoint=_endpoint(get("BLOB_STORE_ENDPOINT")),
        blob_store_region=get("BLOB_STORE_REGION"),
        terraform_bin=get("TERRAFORM_BIN"),
        terraform_sandbox=_sandbox(get("TERRAFORM_SANDBOX")),
        sandbox_paths=_sandbox_paths(get("TERRAFORM_SANDBOX_PATHS"), home),
        secret_key=secret_key,
        kept_secrets=tuple(name for name in ("SECRET_KEY", "ENCRYPTION_KEYS") if not get(name)),
        own_secrets=_own_secrets(get, secret_key, keys),
        vault=vault,
        web_processes=_number(get, "WEB_PROCESSES", 2, 1, 64),
        web_threads=_number(get, "WEB_THREADS", 8, 1, 256),
        workers=_number(get, "WORKERS", 2, 1, 64),
        plan_limit=timedelta(minutes=_number(get, "PLAN_MINUTES", 60, 1, 10080)),
        apply_limit=timedelta(minutes=_number(get, "APPLY_MINUTES", 720, 1, 10080)),
        force_after=timedelta(seconds=_number(get, "FORCE_AFTER_SECONDS", 120, 0, 86400)),
        log_keep=timedelta(days=days) if (days := _number(get, "LOG_KEEP_DAYS", 0, 0, 36500)) else None,
        log_keep_runs=_number(get, "LOG_KEEP_RUNS", 0, 0, 1000000),
        trusted_hosts=tuple(h.strip() for h in (get("TRUSTED_HOSTS") or "").split(",") if h.strip()),
        trusted_proxies=_number(get, "TRUSTED_PROXIES", 0, 0, 10),
        **_sign_in(get),
        max_archive_bytes=_number(get, "MAX_ARCHIVE_MB", 50, 1, 1024) << 20,
        max_unpacked_bytes=_number(get, "MAX_UNPACKED_MB", 250, 1, 10240) << 20,
        max_archive_files=_number(get, "MAX_ARCHIVE_FILES", 20000, 1, 1000000),
        max_state_bytes=_number(get, "MAX_STATE_MB", 64, 1, 1024) << 20,
        log_level=level,
        operator={name: value for name in _passed_names(env) if (value := get(name))},
    )


def _passed_names(env: Mapping[str, str]) -> list[str]:
    services = {found.group(1) for name in env if (found := _SERVICE_ENDPOINT.fullmatch(name))}
    return [*OPERATOR_PASSTHROUGH, *sorted(services - {*OPERATOR_PASSTHROUGH})]


Reader = Callable[[str], str | None]


def _reader(env: Mapping[str, str]) -> Reader:
    def get(name: str) -> str | None:
        path = env.get(f"{name}_FILE")
        if path and env.get(name):
            raise ConfigurationError(f"Set {name} or {name}_FILE, not both.")
        if path:
            return _content(Path(path), f"{name}_FILE {path}")
        return env.get(name) or _credential(env, name)

    return get


def _content(path: Path, what: str) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError as error:
        raise ConfigurationError(f"{what} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} is not text.") from None


def _credential(env: Mapping[str, str], name: str) -> str | None:
    """A secret setting from systemd (systemd.exec(5), "Credentials"), where nothing else gives it."""
    folder = env.get("CREDENTIALS_DIRECTORY")
    if not folder or name not in SECRET_SETTINGS:
        return None
    path = Path(folder) / name.lower()
    return _content(path, f"The credential {path}") if path.exists() else None


def _own_secrets(get: Reader, secret_key: str, keys: str) -> tuple[str, ...]:
    # The passwords within addresses are looked for by whoever hides them; the rest of an address is no secret.
    others = (get(name) or "" for name in SECRET_SETTINGS if not name.endswith("_URL"))
    return tuple(dict.fromkeys(text for text in (secret_key, *keys.split(","), *others) if text.strip()))


def _number(get: Reader, name: str, default: int, least: int, most: int) -> int:
    text = get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ConfigurationError(f"{name} must be a whole number from {least} to {most}.")
    return int(text)


def _database_url(url: str | None, home: Path) -> str:
    if url is None:
        return f"sqlite:///{home / 'lockstep.db'}"
    scheme, found, rest = url.partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+psycopg") and found:
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and found:
        return url
    raise ConfigurationError("DATABASE_URL must start with postgresql:// or sqlite://.")


def _redis_url(url: str | None, home: Path) -> str:
    if url is None:
        socket = home / "redis.sock"
        if len(str(socket)) > 100:  # the kernel takes 107 bytes for the path of a unix socket
            raise ConfigurationError(f"LOCKSTEP_HOME {home} is too long for Redis's socket. Choose a shorter path.")
        return f"unix://{socket}"
    try:
        address = urlsplit(url)
    except ValueError:
        raise ConfigurationError("REDIS_URL is no address.") from None
    if address.scheme not in ("redis", "rediss", "unix") or "://" not in url:
        raise ConfigurationError("REDIS_URL must start with redis://, rediss:// or unix://.")
    if address.scheme != "unix" and not address.password:
        # Sealed credentials lie in it, and who can write to it queues work: never where everybody can who reaches it.
        raise ConfigurationError(
            "REDIS_URL has no password: give that Redis one (requirepass) and write redis://:password@host, "
            "or use a unix socket that only Lockstep's user opens, unix:///path."
        )
    return url


def _blob_store(address: str | None) -> str | None:
    """``s3://bucket`` or ``s3://bucket/prefix`` without a slash at its end, None for the database."""
    if address is None:
        return None
    # Bucket names: Amazon S3 user guide, "General purpose bucket naming rules"; safe characters of keys: "Object keys".
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*'()/-]{0,500})?", address, re.ASCII):
        raise ConfigurationError("BLOB_STORE must be s3://bucket or s3://bucket/prefix.")
    return address.rstrip("/")


def _sandbox(text: str | None) -> str:
    if text not in (None, "auto", "bwrap", "none"):
        raise ConfigurationError("TERRAFORM_SANDBOX must be auto, bwrap or none.")
    return text or "auto"


def _sandbox_paths(text: str | None, home: Path) -> tuple[Path, ...]:
    paths = tuple(Path(path) for path in (text or "").split(":") if path)
    if any(not path.is_absolute() or path == Path("/") or path.resolve().is_relative_to(home) for path in paths):
        raise ConfigurationError("TERRAFORM_SANDBOX_PATHS must be absolute paths outside of the data folder, not /.")
    return paths


def _sign_in(get: Reader) -> dict[str, Any]:
    """The settings of mail and single sign-on, which hang together."""
    names = (get("OIDC_CLIENT_ID"), get("OIDC_CLIENT_SECRET"), get("OIDC_NAME"))
    try:
        public = sign_in_settings.public_url(get("PUBLIC_URL"))
        provider = sign_in_settings.provider(get("OIDC_ISSUER"), *names, public)
        mail = sign_in_settings.mail(get("SMTP_URL"), get("MAIL_FROM"), public)
        password = sign_in_settings.password_sign_in(get("PASSWORD_SIGN_IN"), provider)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return {"public_url": public, "mail": mail, "provider": provider, "password_sign_in": password}


def _endpoint(url: str | None) -> str | None:
    if url is not None and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", url):
        raise ConfigurationError("BLOB_STORE_ENDPOINT must start with http:// or https:// and hold no password.")
    return url


def _kept_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in ``path``, made with mode 0600 when it is not there; two first starts at once agree on one.

    What is encrypted with it may be on disk before it is, so it is made durable first: the content before its name.
    """
    if not path.exists():
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(make() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
        # Also when another start made it: that one may not have come so far yet.
        _sync_folder(path.parent)
    text = _content(path, str(path))
    if not text:
        raise ConfigurationError(f"{path} is empty. Restore it from a backup; without it nothing stored can be read.")
    return text


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
