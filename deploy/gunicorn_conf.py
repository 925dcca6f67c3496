"""gunicorn's settings, derived from Lockstep's own (`python -m gunicorn -c deploy/gunicorn_conf.py`)."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from typing import Any

# Every name here that is also one of gunicorn's settings is one, so `import config` would set "config".
from config import ConfigurationError, load
from deploy.processes import REQUEST_GRACE, preparing

try:
    _config = load()
except ConfigurationError as _error:
    sys.exit(f"Lockstep cannot start: {_error}")
_host = f"[{_config.host}]" if ":" in _config.host else _config.host

wsgi_app = "deploy.loaded:application()"
# Loaded once, before the processes are forked: they share its memory, and start together.
preload_app = True
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


def when_ready(server: Any) -> None:
    """Called by gunicorn with everything loaded, before it forks.

    No request is taken while the launcher still makes the tables, nor with keys that are not the installation's. What
    is loaded now stays, and a collection that touched it would copy it.
    """
    with open(preparing(_config.home), "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    _prove_keys(server.app.wsgi())
    gc.collect()
    gc.freeze()


def _prove_keys(app: Any) -> None:
    from extensions import db
    from services.storage import key_check

    with app.app_context():
        try:
            key_check.prove()
        except key_check.WrongKeys as error:
            sys.exit(f"Lockstep cannot start: {error}")
        finally:
            db.session.remove()
            db.engine.dispose()  # connections do not go through a fork
