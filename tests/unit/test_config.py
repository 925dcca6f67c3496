"""Reading the settings: defaults, files, refusals of one sentence each, secrets made once."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import config
from policy.settings import SETTINGS
from services.storage.vault import generate_key


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def load(home: Path, **settings: str) -> config.Config:
    return config.load({"LOCKSTEP_HOME": str(home), **settings})


def test_defaults(home: Path) -> None:
    found = load(home)
    assert (found.host, found.port, found.workers) == ("127.0.0.1", 8000, 2)
    assert found.database_url == f"sqlite:///{home}/lockstep.db"
    assert found.redis_url == f"unix://{home}/redis.sock"
    assert found.sts_endpoint is None
    assert found.operator == {}


def test_the_data_folder_and_the_secrets_are_private(home: Path) -> None:
    load(home)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [home, *home.iterdir()]}
    assert modes == {"home": 0o700, "secret_key": 0o600, "encryption_keys": 0o600}


def test_a_second_start_keeps_the_secrets(home: Path) -> None:
    first, second = load(home), load(home)
    assert first.secret_key == second.secret_key
    assert second.vault.decrypt(first.vault.encrypt(b"x", "c"), "c") == b"x"


def test_first_starts_at_once_agree_on_the_secrets(home: Path) -> None:
    together = Barrier(8)

    def start(_: int) -> str:
        together.wait(10)
        return load(home).secret_key

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    assert sorted(path.name for path in home.iterdir()) == ["encryption_keys", "secret_key"]


def test_secrets_that_are_given_are_not_made(home: Path) -> None:
    found = load(home, SECRET_KEY="given", ENCRYPTION_KEYS=generate_key())
    assert found.secret_key == "given"
    assert list(home.iterdir()) == []


def test_a_setting_from_a_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    assert load(home, SECRET_KEY_FILE=str(tmp_path / "key")).secret_key == "from a file"


def test_an_empty_setting_counts_as_not_set(home: Path) -> None:
    assert load(home, PORT="", TERRAFORM_BIN="").port == 8000


@pytest.mark.parametrize("url", ["postgres://u:p@h/n", "postgresql://u:p@h/n", "postgresql+psycopg://u:p@h/n"])
def test_every_spelling_of_postgresql_gets_its_driver(home: Path, url: str) -> None:
    assert load(home, DATABASE_URL=url).database_url == "postgresql+psycopg://u:p@h/n"


def test_a_bucket_with_and_without_a_prefix(home: Path) -> None:
    assert load(home).blob_store is None
    assert load(home, BLOB_STORE="s3://our-bucket/").blob_store == "s3://our-bucket"
    found = load(home, BLOB_STORE="s3://our.bucket/lockstep/one/", AWS_ENDPOINT_URL="http://terraforms:1")
    assert (found.blob_store, found.blob_store_endpoint) == ("s3://our.bucket/lockstep/one", None)


def test_the_endpoint_of_sts_comes_before_the_general_one(home: Path) -> None:
    both = {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_STS": "http://b"}
    assert load(home, **both).sts_endpoint == "http://b"
    assert load(home, AWS_ENDPOINT_URL="http://a").sts_endpoint == "http://a"


def test_what_is_handed_to_terraform_goes_by_its_flag_and_by_the_names_of_services(home: Path, tmp_path: Path) -> None:
    (tmp_path / "s3").write_text("http://s3\n")
    passed = {setting.name: "x" for setting in SETTINGS if setting.passed}
    assert {"ALL_PROXY", "HTTPS_PROXY", "TF_CLI_CONFIG_FILE", "AWS_ENDPOINT_URL"} <= set(passed)
    assert not {"SECRET_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "REDIS_URL", "LOCKSTEP_HOME"} & set(passed)
    found = load(
        home,
        **passed,
        AWS_ENDPOINT_URL_DYNAMODB="http://d",
        AWS_ENDPOINT_URL_S3_FILE=str(tmp_path / "s3"),
        https_proxy="x",
        AWS_PROFILE="x",
    )
    assert found.operator == passed | {"AWS_ENDPOINT_URL_DYNAMODB": "http://d", "AWS_ENDPOINT_URL_S3": "http://s3"}


@pytest.mark.parametrize(
    ("url", "settings", "proxies"),
    [
        ("https://sts.eu-west-1.amazonaws.com", {"HTTPS_PROXY": "http://p:1"}, {"https": "http://p:1"}),
        ("http://sts.local", {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:2"}, {"http": "http://p:2"}),
        ("https://sts.eu-west-1.amazonaws.com", {"HTTP_PROXY": "http://p:2"}, {}),
        ("https://sts.local", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other, .local"}, {}),
        ("https://sts.local", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, {}),
        ("https://sts.local:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "sts.local"}, {}),
        ("https://sts.local", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "notsts.local"}, {"https": "http://p:1"}),
    ],
)
def test_the_proxy_for_an_address(home: Path, url: str, settings: dict[str, str], proxies: dict[str, str]) -> None:
    assert load(home, **settings).proxies_for(url) == proxies


def test_repr_shows_no_secret(home: Path) -> None:
    key = generate_key()
    found = load(
        home,
        SECRET_KEY="hidden-1",
        ENCRYPTION_KEYS=key,
        DATABASE_URL="postgresql://u:hidden-2@h/n",
        REDIS_URL="redis://:hidden-3@h",
        HTTPS_PROXY="http://u:hidden-4@h",
    )
    assert "hidden" not in repr(found)
    assert key not in repr(found)


REFUSED = {
    "PORT": ["0", "65536", "http", "-1", "8000.0", "８０００"],
    "WORKERS": ["0", "65"],
    "WEB_PROCESSES": ["0"],
    "WEB_THREADS": ["257"],
    "TRUSTED_PROXIES": ["11", "true"],
    "MAX_ARCHIVE_MB": ["0", "50 MB"],
    "MAX_UNPACKED_MB": ["x"],
    "MAX_ARCHIVE_FILES": ["0"],
    "LOG_LEVEL": ["LOUD"],
    "DATABASE_URL": ["mysql://h/n", "/a/path", "postgresql:h"],
    "REDIS_URL": ["localhost:6379", "http://h", "redis:h", "redis://[", "redis://h:6379/0?password=x"],
    "BLOB_STORE": ["bucket", "s3://", "s3://Bucket", "s3://bucket/pre fix", "gs://bucket"],
    "BLOB_STORE_ENDPOINT": ["minio:9000", "http://user:password@minio:9000"],
    "ENCRYPTION_KEYS": ["short", "not base64!"],
    "SECRET_KEY_FILE": ["/nowhere/key"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_value_that_makes_no_sense_is_refused_in_one_sentence(home: Path, name: str, value: str) -> None:
    with pytest.raises(config.ConfigurationError) as refusal:
        load(home, **{name: value})
    sentence = str(refusal.value)
    assert name in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    if name in ("DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEYS"):
        assert value not in sentence


@pytest.mark.parametrize("url", ["redis://cache:6379/0", "rediss://user@cache:6379", "redis://:@cache", "redis://"])
def test_a_redis_without_a_password(home: Path, url: str) -> None:
    with pytest.raises(config.ConfigurationError, match=r"^REDIS_URL has no password: .*unix:///path\.$"):
        load(home, REDIS_URL=url)


@pytest.mark.parametrize(
    "url", ["redis://:secret@cache:6379", "rediss://user:secret@cache/1", "unix:///run/redis.sock"]
)
def test_a_redis_with_a_password_or_a_socket(home: Path, url: str) -> None:
    assert load(home, REDIS_URL=url).redis_url == url


def test_a_setting_and_its_file_are_not_both_taken(home: Path) -> None:
    with pytest.raises(config.ConfigurationError, match=r"^Set PORT or PORT_FILE, not both\.$"):
        load(home, PORT="1", PORT_FILE="/dev/null")


def test_a_file_in_the_place_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(config.ConfigurationError, match=r"^LOCKSTEP_HOME .* cannot be made: .*\.$"):
        load(tmp_path / "home")


def test_the_secrets_survive_a_power_loss(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is on disk before it has its name, and the name before anything is encrypted with it."""
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(handle: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{handle}"))
        done.append("the folder" if place == home else place.read_text() and "a content")
        fsync(handle)

    def linked(source: str, target: Path) -> None:
        done.append(target.name)
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    load(home)
    assert done == ["a content", "encryption_keys", "the folder", "a content", "secret_key", "the folder"]
    load(home)
    assert len(done) == 6


@pytest.mark.parametrize("name", ["encryption_keys", "secret_key"])
@pytest.mark.parametrize("left", ["", "\n"])
def test_an_emptied_secret_is_not_made_anew(home: Path, name: str, left: str) -> None:
    load(home)
    (home / name).write_text(left)
    with pytest.raises(config.ConfigurationError, match=r"is empty\. Restore it from a backup"):
        load(home)


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigurationError, match="is too long for Redis's socket"):
        load(tmp_path / ("x" * 100))


def test_secrets_come_from_systemd_where_nothing_else_gives_them(home: Path, tmp_path: Path) -> None:
    """The order is NAME or NAME_FILE, the credential, the data folder; only secret settings are credentials."""
    credentials, file = tmp_path / "credentials", tmp_path / "file"
    credentials.mkdir()
    (credentials / "secret_key").write_text("from systemd, long enough\n")
    (credentials / "encryption_keys").write_text(generate_key())
    (credentials / "redis_url").write_text("redis://:pw@h/1\n")
    (credentials / "port").write_text("9999")
    file.write_text("from a file")
    given = {"CREDENTIALS_DIRECTORY": str(credentials)}
    found = load(home, **given)
    assert found.secret_key == "from systemd, long enough"
    assert (found.redis_url, found.private_redis, found.port) == ("redis://:pw@h/1", False, 8000)
    assert found.kept_secrets == ()
    assert list(home.iterdir()) == [], "no secret is made beside those that are given"
    assert load(home, **given, SECRET_KEY="from the environment").secret_key == "from the environment"
    assert load(home, **given, SECRET_KEY_FILE=str(file)).secret_key == "from a file"
    assert load(home, CREDENTIALS_DIRECTORY=str(tmp_path / "none")).kept_secrets == ("SECRET_KEY", "ENCRYPTION_KEYS")
    (credentials / "secret_key").write_bytes(b"\xff\xfe")
    with pytest.raises(config.ConfigurationError, match=r"^The credential .*/secret_key is not text\.$"):
        load(home, **given)


def test_the_installations_own_secrets_are_known_to_be_hidden(home: Path) -> None:
    keys = [generate_key(), generate_key()]
    found = load(home, SECRET_KEY="the key of sessions", ENCRYPTION_KEYS=",".join(keys))
    assert {"the key of sessions", *keys} <= set(found.own_secrets)
    assert "the key of sessions" not in repr(found)


PUBLIC = {"PUBLIC_URL": "https://lockstep.example"}
MAIL = {**PUBLIC, "SMTP_URL": "smtps://a%40b:p%3Ass@mail.example", "MAIL_FROM": "lockstep@example.com"}
OIDC = {**PUBLIC, "OIDC_ISSUER": "https://id.example", "OIDC_CLIENT_ID": "lockstep", "OIDC_CLIENT_SECRET": "hush"}


def test_mail_and_single_sign_on(home: Path) -> None:
    found = load(home, **(MAIL | OIDC), PASSWORD_SIGN_IN="off")
    assert found.mail is not None and found.provider is not None and not found.password_sign_in
    assert (found.mail.user, found.mail.password, found.mail.port) == ("a@b", "p:ss", 465)
    assert found.provider.name == "single sign-on"
    assert "p:ss" not in repr(found) and "hush" not in repr(found)
    none = load(home)
    assert (none.mail, none.provider, none.password_sign_in) == (None, None, True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({**MAIL, "PUBLIC_URL": ""}, "SMTP_URL needs PUBLIC_URL"),
        ({**MAIL, "MAIL_FROM": ""}, "SMTP_URL needs MAIL_FROM"),
        ({**MAIL, "SMTP_URL": "smtp://mail.example"}, "for a mail server on this machine"),
        ({**MAIL, "SMTP_URL": "smtp://a:b@localhost"}, "for a mail server on this machine"),
        ({**MAIL, "SMTP_URL": "smtps://mail.example:port"}, "SMTP_URL must be"),
        ({**OIDC, "PUBLIC_URL": ""}, "OIDC_ISSUER needs PUBLIC_URL"),
        ({**OIDC, "OIDC_CLIENT_SECRET": ""}, "OIDC_ISSUER needs OIDC_CLIENT_ID"),
        ({**OIDC, "OIDC_ISSUER": "http://id.example"}, "OIDC_ISSUER must be an https:// address"),
        ({"PUBLIC_URL": "https://lockstep.example/path"}, "PUBLIC_URL must be"),
        ({"PASSWORD_SIGN_IN": "off"}, "PASSWORD_SIGN_IN=off needs OIDC_ISSUER"),
        ({"PASSWORD_SIGN_IN": "no"}, "PASSWORD_SIGN_IN must be on or off"),
    ],
)
def test_what_does_not_fit_together_stops_the_start(home: Path, settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(config.ConfigurationError, match=sentence):
        load(home, **settings)
