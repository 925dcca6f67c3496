"""The polls of run pages: one for a whole page, answered with narrow queries while nothing but the logs changes.

A page holds a stamp of what it was made from (services/pulse.py) and how far it has each log. While the stamp is still
right, a poll needs neither the person nor the run loaded: it gets 204, or the new lines. Anything else, a person who
may not see the run above all, goes the ordinary way, which alone decides.
"""

from __future__ import annotations

import time
from typing import Any

from flask import current_app, g, request, session

from blueprints import log_view
from extensions import db, login_manager
from policy.mfa import PhaseKind
from services import pulse, sign_ins
from services.pulse import Pulse
from services.shared import Shared

#: Seconds after which a stamp is not enough: then every part is looked at anew, in case something else changed it.
LOOK_AGAIN = 30


_shared: Shared[str] = Shared(64, 1.0)


def begin() -> Any:
    """Take the pulse of the run of the address, kept in ``g.pulse``; answers a poll where that is enough."""
    g.pulse = None
    if request.endpoint not in ("runs.show", "runs.status") or (who := _who()) is None:
        return None
    names = request.view_args or {}
    asked = pulse.Asked(*who, names["organization"], names["environment"], names["number"])
    found = pulse.glance(asked) if request.endpoint == "runs.status" else None
    answer = _logs(found, names) if found is not None and fresh(found) else None
    if answer is None:
        g.pulse = pulse.look(asked)
    return answer


def stamp() -> str:
    """What the page keeps of the pulse: digest and second; "" where none was taken."""
    found: Pulse | None = g.get("pulse")
    return f"{found.stamp}.{int(time.time())}" if found is not None else ""


def fresh(found: Pulse) -> bool:
    """Whether the page that asks was made from what is so now, not long ago."""
    digest, _, second = request.args.get("stamp", "").partition(".")
    return digest == found.stamp and second.isdecimal() and 0 <= time.time() - int(second) <= LOOK_AGAIN


def _who() -> tuple[int, int, str] | None:
    """Whose session it is, where Flask-Login would take it as it is; None for all others, which it looks at."""
    # What "strong" session protection compares.
    same = session.get("_id") == login_manager._session_identifier_generator()
    return sign_ins.parse(str(session.get("_user_id", ""))) if same else None


def _logs(found: Pulse, names: dict[str, Any]) -> Any:
    """The new lines of the logs that the page shows, 204 when there are none.

    None when a log began, and when the page has more of one than there is: another process may have told it of what is
    not known here yet.
    """
    has = log_view.offsets(request.args)
    if any(has[kind] > log.size if kind in has else log.size for kind, log in found.logs.items()):
        return None
    grown = [log for kind, log in found.logs.items() if kind in has and log.size != has[kind]]
    if not grown:
        return "", 204
    # The bytes between two offsets never change, and nothing here belongs to a person.
    key = (*names.values(), *((log.phase_id, log.born, has[log.kind], log.size) for log in grown))
    return _shared.get(key, lambda: _rendered(grown, has, names))


def _rendered(grown: list[pulse.Log], has: dict[PhaseKind, int], names: dict[str, Any]) -> str:
    db.session.rollback()  # what others saw may be younger than a transaction that had begun
    news = [(log, log_view.news(log, has[log.kind])) for log in grown]
    # Not through Flask's context processors: they would load the person.
    return current_app.jinja_env.get_template("runs/_log_only.html").render(news=news, at=names)
