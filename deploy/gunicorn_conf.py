"""gunicorn's settings, derived from Lockstep's own (`python -m gunicorn -c deploy/gunicorn_conf.py`)."""

from __future__ import annotations

import os
import sys
from typing import Any

# Every name here that is also one of gunicorn's settings is one, so `import config` would set "config".
from config import ConfigurationError, load
from deploy.processes import REQUEST_GRACE

try:
    _config = load()
except ConfigurationError as _error:
    sys.exit(f"Lockstep cannot start: {_error}")
_host = f"[{_config.host}]" if ":" in _config.host else _config.host

wsgi_app = "app:create_app()"
bind = [f"{_host}:{_config.port}"]
worker_class = "gthread"
workers = _config.web_processes
threads = _config.web_threads
timeout = 60
graceful_timeout = REQUEST_GRACE
keepalive = 5
umask = 0o077
proc_name = "lockstep-web"
loglevel = _config.log_level.lower()
errorlog = "-"
# Paths of an access log would name what people looked at, and query strings what they typed.
accesslog = None
# gunicorn would open a control socket in the home directory.
control_socket_disable = True
# A heartbeat file on a slow disk can make the arbiter kill a healthy process.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 files there have no name
# Which proxies are believed is decided in one place, by TRUSTED_PROXIES in app.py.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}


def on_starting(server: Any) -> None:
    """In the parent, before anything is served: refuse keys that are not the installation's."""
    from app import create_app
    from extensions import db
    from services.storage import key_check

    with create_app(_config).app_context():
        try:
            key_check.prove()
        except key_check.WrongKeys as error:
            sys.exit(f"Lockstep cannot start: {error}")
        finally:
            db.session.remove()
            db.engine.dispose()  # connections do not go through a fork
