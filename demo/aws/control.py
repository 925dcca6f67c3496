"""The control plane under /_standin/: MFA codes to read, switches to turn, calls to look at.

No bucket can be hidden by it, as S3 allows no underscore in a bucket's name. The keys' secrets are not shown
here; a program that needs them reads the state folder.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from demo.aws import totp
from demo.aws.clock import Clock
from demo.aws.identities import Store, User
from demo.aws.messages import Request, Response, as_json, text
from demo.aws.moto_process import Moto
from demo.aws.switches import SWITCHES, Switches

PREFIX = "/_standin/"
CALLS_KEPT = 1000
LONGEST_WAIT = 35.0

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width">
<title>MFA codes of the local AWS stand-in</title></head><body>
<h1>MFA codes of the local AWS stand-in</h1>
<table>
<thead><tr><th>User</th><th>Device</th><th>Code to type now</th>
<th>Seconds left in this step</th></tr></thead>
<tbody>{rows}</tbody></table>
<p>Each code works once. This page renews itself every 5 seconds.</p></body></html>
"""


@dataclass(frozen=True)
class Call:
    """One STS call as recorded: no secret, no code. `outcome` is "ok", an AWS error code, or what a switch
    did.
    """

    action: str
    access_key_id: str
    at: str
    outcome: str
    status: int | None


class Calls:
    """The latest STS calls, oldest first."""

    def __init__(self) -> None:
        self._kept: deque[Call] = deque(maxlen=CALLS_KEPT)

    def add(self, action: str, access_key_id: str, at: float, outcome: str, status: int | None) -> None:
        """Record one call; `at` in Unix seconds."""
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        self._kept.append(Call(action, access_key_id, stamp, outcome, status))

    def all(self, action: str | None = None) -> list[Call]:
        """The recorded calls, of one action or all."""
        return [call for call in list(self._kept) if action in (None, call.action)]

    def clear(self) -> None:
        """Forget them."""
        self._kept.clear()


class Control:
    """Answers the paths under /_standin/."""

    def __init__(self, store: Store, clock: Clock, switches: Switches, calls: Calls, moto: Moto) -> None:
        self._store, self._clock, self._switches, self._calls, self._moto = (
            store,
            clock,
            switches,
            calls,
            moto,
        )

    def answer(self, request: Request) -> Response:
        """One control request."""
        origin, host = request.header("origin"), request.header("host")
        if origin is not None and origin != f"http://{host}":
            return text(403, "Requests from other pages are refused.\n")
        name = request.path.removeprefix(PREFIX)
        parameters = request.form()
        if request.method == "GET":
            return self._get(name, parameters)
        if request.method == "POST":
            return self._post(name, request)
        return text(405, "GET or POST.\n")

    def _get(self, name: str, parameters: dict[str, str]) -> Response:
        if name == "":
            return text(200, self._page(), "text/html; charset=utf-8")
        if name == "calls":
            return as_json(200, [asdict(call) for call in self._calls.all(parameters.get("action"))])
        if name == "switches":
            return as_json(200, {"on": self._switches.as_dict(), "known": SWITCHES})
        if name == "state":
            return as_json(200, self._state())
        if name.startswith("code/") and name[5:] in self._store.users:
            return self._code(self._store.users[name[5:]], float(parameters.get("wait") or 0))
        return text(404, "There is: code/USER, calls, switches, state, expire.\n")

    def _post(self, name: str, request: Request) -> Response:
        if (request.header("content-type") or "").partition(";")[0] != "application/json":
            return text(415, "Send application/json.\n")
        try:
            wanted = json.loads(request.body or b"{}")
            if not isinstance(wanted, dict):
                raise ValueError("An object is needed.")
            if name == "switches":
                self._switches.apply(wanted)
                return as_json(200, {"on": self._switches.as_dict()})
            if name == "expire":
                return as_json(200, {"expired": self._store.expire_sessions(wanted.get("user"))})
        except (ValueError, TypeError) as error:
            return text(422, f"{error}\n")
        return text(404, "There is: switches, expire.\n")

    def _code(self, user: User, wait: float) -> Response:
        """A fresh code, waited for up to `wait` seconds while the three of the window are used up."""
        until = self._clock.true() + min(wait, LONGEST_WAIT)
        while (code := self._store.fresh_code(user)) is None:
            now = self._clock.true()
            left = totp.STEP_SECONDS - now % totp.STEP_SECONDS
            if now + left > until:
                answer = text(409, f"All codes of the moment are used; the next one comes in {left:.0f} s.\n")
                answer.headers.append(("Retry-After", f"{left + 0.5:.0f}"))
                return answer
            time.sleep(min(left, 0.5))
        return text(200, code + "\n")

    def _page(self) -> str:
        now = self._clock.true()
        left = int(totp.STEP_SECONDS - now % totp.STEP_SECONDS)
        rows = []
        for user in self._store.users.values():
            code = self._store.fresh_code(user) or "wait for the next code"
            cells = (user.name, user.mfa_serial, code, str(left))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        return _PAGE.format(rows="".join(rows))

    def _state(self) -> dict[str, Any]:
        now = self._clock.server()
        return {
            "users": {
                user.name: {
                    "arn": user.arn,
                    "access_key_id": user.access_key_id,
                    "mfa_serial": user.mfa_serial,
                }
                for user in self._store.users.values()
            },
            "roles": {
                role.name: {"arn": role.arn, "trust_policy": role.trust_policy} for role in self._store.roles.values()
            },
            "sessions": [
                {
                    "access_key_id": session.access_key_id,
                    "user": session.user,
                    "role": session.role or None,
                    "mfa": session.mfa,
                    "seconds_left": max(0, round(session.expires_at - now)),
                }
                for session in list(self._store.sessions.values())
            ],
            "buckets": self._moto.bucket_names(),
            "switches": self._switches.as_dict(),
        }
