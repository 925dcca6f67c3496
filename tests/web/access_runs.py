"""The rows of the access table for the Changes tab and the run page."""

from __future__ import annotations

from tests.web.access_table import EVERY_MEMBER, MEMBERS_POST, SIGN_IN, Row

_ENV = "/terraform/<organization>/environments/<environment>"
_NETWORK = "/terraform/acme/environments/network"
_RUN = f"{_ENV}/changes/runs/<int:number>"
_WAITING = f"{_NETWORK}/changes/runs/{{run}}"
_NO_NEWS = (204, 204, 404, SIGN_IN)
_REFUSED = (422, 422, 404, SIGN_IN)

RUNS = [
    Row("GET", _ENV, _NETWORK, (302, 302, 404, SIGN_IN)),
    Row("GET", f"{_ENV}/changes", f"{_NETWORK}/changes", (302, 302, 404, SIGN_IN)),
    Row("GET", f"{_ENV}/changes/runs", f"{_NETWORK}/changes/runs", EVERY_MEMBER),
    Row("POST", f"{_ENV}/changes/configurations", f"{_NETWORK}/changes/configurations", _REFUSED),
    Row("POST", f"{_ENV}/changes/runs", f"{_NETWORK}/changes/runs", MEMBERS_POST),
    Row("GET", _RUN, _WAITING, EVERY_MEMBER),
    Row("GET", f"{_RUN}/status", f"{_WAITING}/status", EVERY_MEMBER),
    Row("GET", f"{_RUN}/<any(plan, apply):kind>/log", f"{_WAITING}/plan/log?offset=0", _NO_NEWS),
    Row("GET", f"{_RUN}/<any(plan, apply):kind>/log.txt", f"{_WAITING}/plan/log.txt", EVERY_MEMBER),
    Row("GET", f"{_RUN}/evidence", f"{_WAITING}/evidence", EVERY_MEMBER),
    Row("GET", f"{_RUN}/evidence.json", f"{_WAITING}/evidence.json", EVERY_MEMBER),
    # The run awaits a plain confirmation, so there is nothing to authenticate.
    Row("POST", f"{_RUN}/authenticate", f"{_WAITING}/authenticate", (409, 409, 404, SIGN_IN), {"token": "123456"}),
    Row("POST", f"{_RUN}/confirm", f"{_WAITING}/confirm", MEMBERS_POST),
    Row("POST", f"{_RUN}/discard", f"{_WAITING}/discard", MEMBERS_POST),
    Row("POST", f"{_RUN}/cancel", f"{_WAITING}/cancel", MEMBERS_POST),
    # Nothing runs, so an owner can neither force it nor give up on it.
    Row("POST", f"{_RUN}/force", f"{_WAITING}/force", (409, 403, 404, SIGN_IN)),
    Row("POST", f"{_RUN}/give-up", f"{_WAITING}/give-up", (409, 403, 404, SIGN_IN)),
]
