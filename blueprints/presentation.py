"""How values look on pages: times, sizes, durations, statuses. Registered as template filters and globals."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from flask import Flask, url_for
from markupsafe import Markup, escape

import config
from models import Run
from policy import lifecycle, mfa
from policy.lifecycle import RunStatus
from policy.mfa import Lock
from policy.permissions import Permission
from services import clock

S = RunStatus

#: status → (class of the pill, icon); a running one spins
_PILLS = {
    S.PENDING: ("queued", "circle-dashed"),
    S.AWAITING_PLAN_AUTHENTICATION: ("waiting", "lock"),
    S.PLAN_QUEUED: ("queued", "circle-dashed"),
    S.PLANNING: ("planning", "loader-circle"),
    S.PLANNED_AND_FINISHED: ("nochange", "circle-check"),
    S.AWAITING_CONFIRMATION: ("waiting", "circle-pause"),
    S.AWAITING_APPLY_AUTHENTICATION: ("waiting", "lock"),
    S.APPLY_QUEUED: ("queued", "circle-dashed"),
    S.APPLYING: ("applying", "loader-circle"),
    S.APPLIED: ("applied", "circle-check"),
    S.DISCARDED: ("discarded", "circle-slash"),
    S.CANCELED: ("canceled", "ban"),
    S.ERRORED: ("errored", "circle-x"),
    S.INTERRUPTED: ("interrupted", "unplug"),
}

_LOCKS = {
    Lock.WAITING: ("waiting", "lock"),
    Lock.FAILED: ("auth-failed", "lock"),
    Lock.OPEN: ("authenticated", "lock-open"),
}


def register(app: Flask) -> None:
    """Install filters and globals."""
    app.jinja_env.filters.update(
        when=when, moment=moment, took=took, size=size, pill=pill, counted=counted, clock_time=clock_time
    )
    app.jinja_env.globals.update(
        icon=icon, asset=asset, lock_pill=lock_pill, lifecycle=lifecycle, Permission=Permission, mfa=mfa,
        RunStatus=RunStatus, version=config.VERSION, now=clock.now,
    )  # fmt: skip
    _share_parts(app)


def _share_parts(app: Flask) -> None:
    """Make the macros of _parts.html known to every template, so that no page has to import them."""
    parts = app.jinja_env.get_template("_parts.html")

    @app.context_processor
    def _parts() -> dict[str, object]:
        module = parts.make_module({"csrf_token": app.jinja_env.globals["csrf_token"]})
        return {"csrf": module.csrf, "notice": module.notice, "error_of": module.error_of}


def icon(name: str, spin: bool = False) -> Markup:
    """A symbol of the sprite; decoration only, words always stand beside it."""
    kind = "icon icon-spin" if spin else "icon"
    return Markup('<svg class="{}" aria-hidden="true"><use href="{}#{}"/></svg>').format(kind, asset("icons.svg"), name)


def asset(path: str) -> str:
    """The address of a static file, with its digest so that it can be kept for ever."""
    return url_for("static", filename=path, v=digests()[path])


@cache
def digests() -> dict[str, str]:
    """The path of each static file → its digest, as its address has it."""
    folder = Path(__file__).parent.parent / "static"
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:10] for path in files}


def pill(run: Run) -> Markup:
    """The run's status as a pill: icon and words."""
    kind, symbol = _PILLS[run.status]
    return _pill(kind, symbol, run.status.words, run.status in lifecycle.RUNNING)


def lock_pill(lock: Lock, by: str | None = None) -> Markup:
    """The padlock of a phase as a pill."""
    kind, symbol = _LOCKS[lock]
    return _pill(kind, symbol, f"{lock.value} by {by}" if by else lock.value)


def _pill(kind: str, symbol: str, words: str, spin: bool = False) -> Markup:
    return Markup('<span class="status status-{}">{}{}</span>').format(kind, icon(symbol, spin), words)


def when(at: datetime | None) -> Markup:
    """A time as "9 min ago"; the exact one in ``title``, which static/app.js turns into the reader's zone."""
    if at is None:
        return Markup("")
    return _time(at, _ago(clock.now() - at, at))


def moment(at: datetime | None) -> Markup:
    """A time as "12 Mar 2026, 14:02 UTC", in the reader's zone where there is JavaScript."""
    return Markup("") if at is None else _time(at, f"{at.day} {at:%b %Y, %H:%M} UTC", "local")


def clock_time(at: datetime | None) -> Markup:
    """A time as "14:02:11 UTC"."""
    return Markup("") if at is None else _time(at, f"{at:%H:%M:%S} UTC", "clock")


def _time(at: datetime, text: str, kind: str = "ago") -> Markup:
    exact = f"{at.day} {at:%b %Y, %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}" data-time="{}">{}</time>').format(
        at.isoformat(timespec="seconds"), exact, kind, text
    )


def _ago(age: timedelta, at: datetime) -> str:
    seconds = int(age.total_seconds())
    if seconds < 60:
        return f"{max(seconds, 0)} s ago"
    if seconds < 3600:
        return f"{seconds // 60} min ago"
    if seconds < 86400:
        return f"{seconds // 3600} h ago"
    return f"{at.day} {at:%b %Y}"


def took(length: timedelta | float | None) -> str:
    """A duration: "38 s", "1 min 28 s", "2 h 5 min"."""
    if length is None:
        return ""
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(seconds // 60, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def size(count: int) -> str:
    """Bytes: "214 KB"."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.0f} KB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def counted(number: int, one: str, many: str | None = None) -> Markup:
    """A number with its word, such as "1 line" or "68 lines"."""
    return Markup("{} {}").format(f"{number:,}", escape(one if number == 1 else many or one + "s"))
