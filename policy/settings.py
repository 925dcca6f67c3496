"""The list of Lockstep's settings, for operators: names, defaults, meanings. `config.py` reads them.

docs/CONFIGURATION.md has the same list; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One operator setting: its name, the default as the documentation shows it, and what it does.

    ``passed`` ones are handed to terraform as they are.
    """

    name: str
    default: str
    help: str
    secret: bool = False
    passed: bool = False


SETTINGS: tuple[Setting, ...] = (
    Setting("LOCKSTEP_HOME", "./data", "Data folder: database, secrets, Redis, working directories."),
    Setting("HOST", "127.0.0.1", "Address the web server listens on."),
    Setting("PORT", "8000", "Port the web server listens on."),
    Setting("DATABASE_URL", "SQLite in the data folder", "`postgresql://user:password@host/name`.", True),
    Setting("BLOB_STORE", "the database", "Where configurations, plans and states go: `s3://bucket/prefix`."),
    Setting("BLOB_STORE_ENDPOINT", "AWS", "Endpoint of an S3-compatible store; no other setting counts here."),
    Setting("BLOB_STORE_REGION", "the AWS SDK's", "Region of the bucket."),
    Setting("REDIS_URL", "a private Redis in the data folder",
            "`redis://:password@host`, `rediss://…` or `unix:///path` of your own Redis.", True),
    Setting("TERRAFORM_BIN", "`terraform` or `tofu` on PATH, else the bundled one",
            "Path of the terraform to run; OpenTofu is known by `tofu` in its file’s name or its target’s."),
    Setting("TERRAFORM_SANDBOX", "auto", "`bwrap`: terraform runs inside bubblewrap or not at all; `none`: never."),
    Setting("TERRAFORM_SANDBOX_PATHS", "none", "Further paths that a run can read, separated by colons."),
    Setting("SECRET_KEY", "made on the first start", "Signs session cookies and forms.", True),
    Setting("ENCRYPTION_KEYS", "made on the first start", "Keys of the vault, newest first, with commas.", True),
    Setting("WEB_PROCESSES", "2", "gunicorn processes."),
    Setting("WEB_THREADS", "8", "Threads of each gunicorn process."),
    Setting("WORKERS", "2", "Worker processes: how many plans and applies run at the same time."),
    Setting("PLAN_MINUTES", "60", "A plan that takes longer is canceled, in minutes."),
    Setting("APPLY_MINUTES", "720", "The same for an apply; behind MFA never longer than the session."),
    Setting("FORCE_AFTER_SECONDS", "120", "How long after a cancel an owner can force a run to end."),
    Setting("LOG_KEEP_DAYS", "0", "Logs of runs that ended longer ago are removed, in days; 0 keeps them for ever."),
    Setting("LOG_KEEP_RUNS", "0", "How many runs of an environment keep their logs; 0 for all of them."),
    Setting("TRUSTED_HOSTS", "any", "Host names, separated by commas, that requests may name."),
    Setting("TRUSTED_PROXIES", "0", "How many reverse proxies in front set X-Forwarded-…"),
    Setting("PUBLIC_URL", "none", "Address that people reach Lockstep at, `https://host`, for links in mails."),
    Setting("SMTP_URL", "none", "Mail server: `smtps://…` or `smtp+starttls://user:password@host:port`.", True),
    Setting("MAIL_FROM", "none", "Sender of mails."),
    Setting("OIDC_ISSUER", "none", "Provider of single sign-on (OpenID Connect), `https://…`."),
    Setting("OIDC_CLIENT_ID", "none", "What the provider knows Lockstep as."),
    Setting("OIDC_CLIENT_SECRET", "none", "The secret that goes with it.", True),
    Setting("OIDC_NAME", "single sign-on", "Name of the provider on the sign-in page."),
    Setting("PASSWORD_SIGN_IN", "on", "`off` leaves single sign-on alone."),
    Setting("MAX_ARCHIVE_MB", "50", "Largest configuration upload, packed, in MiB."),
    Setting("MAX_UNPACKED_MB", "250", "Largest configuration, unpacked, in MiB."),
    Setting("MAX_ARCHIVE_FILES", "20000", "Most files and folders in a configuration."),
    Setting("MAX_STATE_MB", "64", "Largest state that a person uploads or a terminal saves, in MiB."),
    Setting("LOG_LEVEL", "INFO", "Least serious level logged: DEBUG, INFO, WARNING, ERROR."),
    Setting("AWS_ENDPOINT_URL", "AWS", "Endpoint for all AWS calls, for a private AWS-like cloud.", passed=True),
    Setting("AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL", "Endpoint for STS alone.", passed=True),
    Setting("AWS_USE_FIPS_ENDPOINT", "off", "`true` for the FIPS endpoints of AWS.", passed=True),
    Setting("AWS_CA_BUNDLE", "the system's", "Certificates to check AWS endpoints against.", passed=True),
    Setting("TF_CLI_CONFIG_FILE", "none", "Terraform CLI configuration of every run, such as a mirror.", passed=True),
    Setting("HTTPS_PROXY", "none", "Proxy for AWS and terraform, with HTTP_PROXY and NO_PROXY beside it.", passed=True),
    Setting("HTTP_PROXY", "none", "See HTTPS_PROXY.", passed=True),
    Setting("NO_PROXY", "none", "See HTTPS_PROXY.", passed=True),
    Setting("ALL_PROXY", "none", "Proxy for Git, when `init` fetches modules; AWS and terraform do not read it.",
            passed=True),
    Setting("SSL_CERT_FILE", "the system's", "Certificates for terraform's own downloads.", passed=True),
    Setting("SSL_CERT_DIR", "the system's", "See SSL_CERT_FILE.", passed=True),
)  # fmt: skip

SECRET_SETTINGS = frozenset(setting.name for setting in SETTINGS if setting.secret)

#: Settings that a terraform child receives as they are; services/execution/environ.py takes a second look.
OPERATOR_PASSTHROUGH = tuple(setting.name for setting in SETTINGS if setting.passed)
