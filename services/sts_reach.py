"""Whether STS can be reached from this machine, and what time it is there. No credentials and no STS call."""

from __future__ import annotations

import ssl
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from typing import IO, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from config import Config

SECONDS = 3.0


class Unreachable(Exception):
    """STS does not answer; the text says which endpoint and why."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """STS answers a bare request with a redirect to its documentation; that is answer enough."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow none."""
        return


def endpoint(config: Config) -> str:
    """The operator's STS endpoint, else AWS's of us-east-1 (AWS General Reference, "STS endpoints")."""
    if config.sts_endpoint:
        return config.sts_endpoint
    fips = config.operator.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true"
    return f"https://sts{'-fips' if fips else ''}.us-east-1.amazonaws.com"


def ask(config: Config) -> datetime:
    """The time at STS, from the Date header of any HTTP answer. Raises :class:`Unreachable`.

    Proxy and certificates are those of the calls with a code (services/mfa/sts.py).
    """
    url = endpoint(config)
    if urlsplit(url).scheme not in ("https", "http"):
        raise Unreachable(f"{url} is no http or https address")
    try:
        tls = ssl.create_default_context(cafile=config.operator.get("AWS_CA_BUNDLE"))
        proxy = urllib.request.ProxyHandler(config.proxies_for(url))
        opener = urllib.request.build_opener(_NoRedirect, proxy, urllib.request.HTTPSHandler(context=tls))
        with opener.open(url, timeout=SECONDS) as answer:
            date = answer.headers.get("Date")
    except HTTPError as error:
        with error:
            date = error.headers.get("Date")
    except (OSError, HTTPException) as error:
        _refuse(url, error)
    if not date:
        raise Unreachable(f"{url} answers without a Date header, so it is not STS")
    try:
        there = parsedate_to_datetime(date)
    except ValueError:
        raise Unreachable(f"{url} answers with the date {date[:40]!r}, so it is not STS") from None
    return there if there.tzinfo else there.replace(tzinfo=UTC)


def _refuse(url: str, error: Exception) -> NoReturn:
    reason = error.reason if isinstance(error, URLError) else error
    raise Unreachable(f"{url} does not answer: {str(reason)[:200] or type(reason).__name__}") from None
