"""The application: settings → extensions → blueprints → error pages → commands."""

from __future__ import annotations

import logging
import sys
from typing import Any

from flask import Flask, request
from flask.sessions import SecureCookieSessionInterface
from werkzeug.middleware.proxy_fix import ProxyFix

import config as settings
import models  # noqa: F401  (registers every table)
from extensions import csrf, db, htmx, login_manager
from services import queue
from services.storage import postgresql, sqlite


class _Sessions(SecureCookieSessionInterface):
    """Cookies are Secure exactly when the request came over HTTPS."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def _settings_or_exit() -> settings.Config:
    try:
        return settings.load()
    except settings.ConfigurationError as error:
        sys.exit(f"Lockstep cannot start: {error}")


def add_migrations(app: Flask) -> None:
    """Let `flask db` and flask_migrate be used with it."""
    from flask_migrate import Migrate  # Alembic is a fifth of all that is loaded, and servers never migrate

    Migrate().init_app(app, db, directory="migrations", render_as_batch=True, compare_type=True)


def _add_pages(app: Flask, config: settings.Config) -> None:
    import cli
    from blueprints import incoming, register_blueprints, sessions

    app.session_interface = _Sessions()
    app.url_map.converters["int"] = incoming.Number
    app.url_value_preprocessor(lambda *_: incoming.bound())
    if config.trusted_proxies:
        n = config.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n)  # type: ignore[method-assign]
    login_manager.init_app(app)
    login_manager.session_protection = "strong"
    login_manager.user_loader(sessions.load)
    csrf.init_app(app)
    htmx.init_app(app)
    app.request_class = incoming.Request
    register_blueprints(app)
    cli.register(app)


def create_app(
    config: settings.Config | None = None, *, migrations: bool = True, pages: bool = True, **overrides: Any
) -> Flask:
    """Build the application. ``overrides`` are further Flask settings, for tests.

    ``migrations`` is whether `flask db` and flask_migrate can be used with it, ``pages`` whether it has pages and
    commands: a worker needs neither.

    Without ``config`` the settings come from the environment, and one that makes no sense ends the process with
    its sentence.
    """
    config = config or _settings_or_exit()
    app = Flask(__name__)
    app.config.from_mapping(
        LOCKSTEP=config,
        SECRET_KEY=config.secret_key,
        SQLALCHEMY_DATABASE_URI=config.database_url,
        SQLALCHEMY_ENGINE_OPTIONS={
            "pool_pre_ping": not config.database_url.startswith("sqlite"),  # a file does not hang up
            # Every thread of a web process may need a connection at the same time.
            "max_overflow": max(10, config.web_threads),
        },
        TRUSTED_HOSTS=list(config.trusted_hosts) or None,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_NAME="lockstep",
        REMEMBER_COOKIE_HTTPONLY=True,
        REMEMBER_COOKIE_SAMESITE="Lax",
        REMEMBER_COOKIE_NAME="lockstep_remember",
        REMEMBER_COOKIE_DURATION=7 * 24 * 3600,
        PERMANENT_SESSION_LIFETIME=12 * 3600,
        WTF_CSRF_TIME_LIMIT=None,  # run pages stay open for hours
        MAX_CONTENT_LENGTH=2 * 1024 * 1024,  # the upload route raises its own
        MAX_FORM_MEMORY_SIZE=1024 * 1024,
        TEMPLATES_AUTO_RELOAD=False,
    )
    app.config.update(overrides)
    logging.getLogger().setLevel(config.log_level)
    db.init_app(app)
    if migrations:
        add_migrations(app)
    app.extensions["lockstep-redis"] = queue.connect(config.redis_url)
    with app.app_context():
        sqlite.install(db.engine)
        postgresql.install(db.engine)
    if pages:
        _add_pages(app, config)
    return app
