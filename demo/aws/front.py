"""The front: decides for each request which part answers it, and records the STS calls."""

from __future__ import annotations

import time

from demo.aws import control, sigv4
from demo.aws.callers import identify
from demo.aws.clock import Clock
from demo.aws.control import Calls
from demo.aws.errors import AwsError, render
from demo.aws.forward import Forwarder
from demo.aws.identities import ACCOUNT, Store
from demo.aws.messages import Request, Response
from demo.aws.moto_process import Moto
from demo.aws.sts import Sts
from demo.aws.switches import Setting, Switches

_REGION_OFF = (
    f"STS is not activated in this region for account:{ACCOUNT}. Your account administrator can activate STS "
    "in this region using the IAM Console."
)


class Front:
    """All parts of one stand-in, without the socket."""

    def __init__(self, store: Store, clock: Clock, switches: Switches, calls: Calls, moto: Moto) -> None:
        self._store, self._clock, self._switches, self._calls = store, clock, switches, calls
        self._sts = Sts(store, clock)
        self._forwarder = Forwarder(moto, switches)
        self._control = control.Control(store, clock, switches, calls, moto)
        self._stopping = False

    def stop(self) -> None:
        """Release the calls that a switch holds."""
        self._stopping = True
        self._switches.wake()

    def answer(self, request: Request) -> Response | None:
        """The answer to one request; None means: close the connection without one."""
        if request.path.startswith(control.PREFIX):
            return self._control.answer(request)
        try:
            authorization = sigv4.parse(request)
        except AwsError as error:
            return render(error, "sts" if "Action" in request.form() else "s3")
        if authorization.service == "sts":
            return self._sts_call(request, authorization)
        try:
            caller, verified = identify(self._store, self._clock, request, authorization)
            return self._forwarder.perform(caller, authorization.service, request, verified)
        except AwsError as error:
            return render(error, authorization.service)

    def _sts_call(self, request: Request, authorization: sigv4.Authorization) -> Response | None:
        form = request.form()
        action = form.get("Action", "")
        held = self._switches.take(action)
        at = self._clock.true()

        def record(outcome: str, status: int | None) -> None:
            self._calls.add(action, authorization.access_key_id, at, outcome, status)

        if "silent" in held:
            record("silent", None)
            self._switches.hold(lambda: self._stopping)
            return None
        try:
            _refuse(held)
            caller, _ = identify(self._store, self._clock, request, authorization)
            response = self._sts.perform(caller, form, held)
        except AwsError as error:
            record(error.code, error.status)
            return self._late(held, render(error, "sts"))
        if "drop" in held:
            record("dropped", None)
            return None
        record("ok", response.status)
        return self._late(held, _spoil(held, response))

    def _late(self, held: dict[str, Setting], response: Response) -> Response:
        if "slow" in held:
            until = time.monotonic() + held["slow"].seconds
            while not self._stopping and (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.2))
        return response


def _refuse(held: dict[str, Setting]) -> None:
    if "throttle" in held:
        raise AwsError(400, "Throttling", "Rate exceeded")
    if "error500" in held:
        message = "The request processing has failed because of an unknown error, exception or failure."
        raise AwsError(500, "InternalFailure", message)
    if "region_disabled" in held:
        raise AwsError(403, "RegionDisabledException", _REGION_OFF)


def _spoil(held: dict[str, Setting], response: Response) -> Response:
    if "malformed" in held:
        # It breaks off behind the credentials, so that whoever quotes it gives a secret away.
        end = response.body.rindex(b"Result>") - 2
        return Response(200, response.body[:end], response.headers)
    if "garbage" in held:
        page = b"<html><body>Welcome to the hotel's network<br></html"
        return Response(200, page, [("Content-Type", "text/html")])
    return response
