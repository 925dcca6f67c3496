"""The way to an OpenID Connect provider and back: authorization code with PKCE, state and nonce (Core 1.0, 3.1).

Authlib and what it needs are loaded with this module, so nothing that starts with the server imports it.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from flask import current_app
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from requests import RequestException

from config import Config
from extensions import db
from policy.sign_in_settings import LOOPBACK, Provider
from services import clock
from services.sign_ins import PROOF
from services.single_sign_on import Identity, Journey, SignOnFailed

#: What a provider may sign with; "none" and shared secrets are not among them.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_PATIENCE = 10
_LEEWAY = 60
#: Seconds for which the provider's addresses are kept in memory.
_KEPT = 3600
_REFUSALS = (AuthlibBaseError, JoseError, RequestException, ValueError, KeyError, TypeError)
_lock = threading.Lock()
_known: dict[str, tuple[float, dict[str, str]]] = {}


def begin(back: str, *, again: bool = False) -> Journey:
    """Where to send the browser, and what to keep until it is back at ``back``. Raises :class:`SignOnFailed`."""
    db.session.rollback()
    nonce, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    more = {"prompt": "login", "max_age": "0"} if again else {}
    try:
        with _client(back) as client:
            address, state = client.create_authorization_url(
                _metadata(client)["authorization_endpoint"], nonce=nonce, code_verifier=verifier, **more
            )
    except (AuthlibBaseError, RequestException, ValueError, KeyError):
        raise SignOnFailed("The provider of single sign-on does not answer. Nobody was signed in.") from None
    return Journey(address, state, nonce, verifier)


def finish(journey: Journey, back: str, code: str, *, again: bool = False) -> Identity:
    """Trade the code for the provider's word and check it. Raises :class:`SignOnFailed`."""
    db.session.rollback()
    try:
        with _client(back) as client:
            places = _metadata(client)
            token = client.fetch_token(
                places["token_endpoint"], code=code, code_verifier=journey.verifier, timeout=_PATIENCE
            )
            keys = KeySet.import_key_set(_fetched(client, places["jwks_uri"]))
            return _checked(str(token["id_token"]), keys, journey.nonce, again)
    except _REFUSALS:
        # Not the text of the error: it can quote what the provider sent.
        raise SignOnFailed("What the provider of single sign-on sent does not hold. Nobody was signed in.") from None


def _checked(text: str, keys: KeySet, nonce: str, again: bool) -> Identity:
    """The checks of OpenID Connect Core 1.0, 3.1.3.7."""
    there, now = _provider(), int(clock.now().timestamp())
    claims = jwt.decode(text, keys, algorithms=_ALGORITHMS).claims
    jwt.JWTClaimsRegistry(
        now=now,
        leeway=_LEEWAY,
        iss={"essential": True, "value": there.issuer},
        aud={"essential": True, "value": there.client_id},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
        nonce={"essential": True, "value": nonce},
    ).validate(claims)
    party = claims.get("azp")
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and party is None:
        raise ValueError("for several, and not said for whom")
    if party not in (None, there.client_id):
        raise ValueError("made for somebody else")
    # A provider that leaves auth_time out where max_age was asked proves nothing.
    if again and not now - PROOF.total_seconds() < int(claims["auth_time"]) <= now + _LEEWAY:
        raise ValueError("not proved anew")
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise ValueError("no subject")
    name, email = str(claims.get("preferred_username") or ""), str(claims.get("email") or "")
    return Identity(there.issuer, subject, name[:64].casefold(), email[:254])


def _metadata(client: OAuth2Session) -> dict[str, str]:
    """The provider's addresses, as it tells them (OpenID Connect Discovery 1.0, 4)."""
    issuer = _provider().issuer
    with _lock:
        kept = _known.get(issuer)
    if kept is not None and time.monotonic() - kept[0] < _KEPT:
        return kept[1]
    told = _fetched(client, issuer.rstrip("/") + "/.well-known/openid-configuration")
    if told.get("issuer") != issuer:
        raise ValueError("another issuer than was asked")
    places = {name: str(told[name]) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
    for place in places.values():
        address = urlsplit(place)
        if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
            raise ValueError("an address without TLS")
    with _lock:
        _known[issuer] = (time.monotonic(), places)
    return places


def _fetched(client: OAuth2Session, address: str) -> Any:
    answer = client.get(address, withhold_token=True, timeout=_PATIENCE, allow_redirects=False)
    if answer.status_code != 200:
        raise ValueError("not found")
    return answer.json()


def _client(back: str) -> OAuth2Session:
    there, settings = _provider(), _settings()
    client = OAuth2Session(
        there.client_id,
        there.client_secret,
        scope="openid profile email",
        redirect_uri=back,
        code_challenge_method="S256",
    )
    client.trust_env = False
    client.proxies = settings.proxies_for(there.issuer)
    client.verify = settings.operator.get("SSL_CERT_FILE") or True
    return client


def _provider() -> Provider:
    found = _settings().provider
    if found is None:
        raise SignOnFailed("Single sign-on is not configured here.")
    return found


def _settings() -> Config:
    found: Config = current_app.config["LOCKSTEP"]
    return found
