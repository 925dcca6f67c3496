"""The rows of the access table for the Changes tab and the run page."""

from __future__ import annotations

from tests.web.access_table import Row, admins, readers, writers

_ENV = "/terraform/<organization>/environments/<environment>"
_NETWORK = "/terraform/acme/environments/network"
_RUN = f"{_ENV}/changes/runs/<int:number>"
_WAITING = f"{_NETWORK}/changes/runs/{{run}}"

RUNS = [
    Row("GET", _ENV, _NETWORK, readers(302)),
    Row("GET", f"{_ENV}/changes", f"{_NETWORK}/changes", readers(302)),
    Row("GET", f"{_ENV}/changes/runs", f"{_NETWORK}/changes/runs", readers(200)),
    Row("POST", f"{_ENV}/changes/configurations", f"{_NETWORK}/changes/configurations", writers(422)),
    Row("POST", f"{_ENV}/changes/runs", f"{_NETWORK}/changes/runs", writers(303)),
    Row("GET", _RUN, _WAITING, readers(200)),
    Row("GET", f"{_RUN}/status", f"{_WAITING}/status", readers(200)),
    Row("GET", f"{_RUN}/<any(plan, apply):kind>/log", f"{_WAITING}/plan/log?offset=0", readers(204)),
    Row("GET", f"{_RUN}/<any(plan, apply):kind>/log.txt", f"{_WAITING}/plan/log.txt", readers(200)),
    Row("GET", f"{_RUN}/evidence", f"{_WAITING}/evidence", readers(200)),
    Row("GET", f"{_RUN}/evidence.json", f"{_WAITING}/evidence.json", readers(200)),
    # The run awaits a plain confirmation, so there is nothing to authenticate.
    Row("POST", f"{_RUN}/authenticate", f"{_WAITING}/authenticate", writers(409), {"token": "123456"}),
    Row("POST", f"{_RUN}/confirm", f"{_WAITING}/confirm", writers(303)),
    Row("POST", f"{_RUN}/discard", f"{_WAITING}/discard", writers(303)),
    Row("POST", f"{_RUN}/cancel", f"{_WAITING}/cancel", writers(303)),
    # Nothing runs, so an admin can neither force it nor give up on it.
    Row("POST", f"{_RUN}/force", f"{_WAITING}/force", admins(409)),
    Row("POST", f"{_RUN}/give-up", f"{_WAITING}/give-up", admins(409)),
]
