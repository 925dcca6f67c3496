"""How every request begins, and what every answer carries: a strict content security policy and its companions."""

from __future__ import annotations

import logging
import secrets
import time

from flask import Flask, Response, g, request, request_started

from blueprints.errors import OtherKeys
from blueprints.presentation import digests
from services.storage import key_check
from services.storage.sqlite import read_only

log = logging.getLogger(__name__)

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def register(app: Flask) -> None:
    """Install the hooks."""
    request_started.connect(_begin, app)
    app.before_request(_settle_keys)

    @app.teardown_request
    def _end(_error: BaseException | None) -> None:
        read_only.set(False)

    @app.after_request
    def _headers(response: Response) -> Response:
        headers = response.headers
        headers.setdefault("Content-Security-Policy", _POLICY)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
        headers["X-Frame-Options"] = "DENY"
        if request.is_secure:
            headers["Strict-Transport-Security"] = "max-age=31536000"
            _secure_cookies(response)
        if request.endpoint == "static":
            headers["Cache-Control"] = "public, max-age=31536000, immutable" if _as_asked(response) else "no-cache"
        else:
            headers["Cache-Control"] = "no-store"
            response.vary.update(("HX-Request", "Cookie"))
        return response


def _as_asked(response: Response) -> bool:
    """Whether this is the very file that the address names by its digest: while machines are upgraded one after the
    other, the page can be of one release and the file of another.
    """
    named = digests().get((request.view_args or {}).get("filename", ""))
    return response.status_code in (200, 304) and named is not None and request.args.get("v") == named


def _begin(_app: Flask, **_: object) -> None:
    """Before everything that could touch the database, the functions of ``before_request`` included."""
    g.request_id = secrets.token_hex(4)
    g.started = time.monotonic()
    read_only.set(request.method in ("GET", "HEAD", "OPTIONS"))


def _settle_keys() -> None:
    """Nothing is served with keys that are not the installation's, files that belong to no page excepted."""
    if request.endpoint == "static":
        return
    try:
        key_check.settle()
    except key_check.WrongKeys as error:
        log.critical("request %s is not served: %s", g.request_id, error)
        raise OtherKeys from None


def _secure_cookies(response: Response) -> None:
    """Flask-Login marks its cookie by a fixed setting; here it is the request that tells."""
    cookies = response.headers.getlist("Set-Cookie")
    response.headers.setlist("Set-Cookie", [c if "; Secure" in c else f"{c}; Secure" for c in cookies])
