"""What an operator says about mail and single sign-on, checked. Each :class:`ValueError` is one sentence for them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

#: This machine itself, which needs no TLS.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"smtps": 465, "smtp+starttls": 587, "smtp": 25}


@dataclass(frozen=True)
class Mail:
    """The server that takes mail. ``scheme`` is "smtps", "smtp+starttls" or, on this machine only, "smtp"."""

    scheme: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    sender: str


@dataclass(frozen=True)
class Provider:
    """The OpenID Connect provider that people may sign in with. ``name`` stands on the button."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    name: str


def public_url(text: str | None) -> str | None:
    """The address people reach Lockstep at, without a slash at its end."""
    if text is None:
        return None
    if not re.fullmatch(r"https?://[^/\s?#@]+/?", text, re.ASCII):
        raise ValueError("PUBLIC_URL must be https://host, with a port where it has one and nothing after it.")
    return text.rstrip("/")


def mail(url: str | None, sender: str | None, public: str | None) -> Mail | None:
    """The mail server of SMTP_URL; None where there is none."""
    if url is None:
        return None
    wrong = "SMTP_URL must be smtps://user:password@host:465 or smtp+starttls://user:password@host:587."
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        raise ValueError(wrong) from None
    host = found.hostname or ""
    if found.scheme not in _PORTS or not host or found.path.strip("/") or found.query or found.fragment:
        raise ValueError(wrong)
    if found.scheme == "smtp" and (host not in LOOPBACK or found.username):
        raise ValueError("SMTP_URL without TLS is for a mail server on this machine, without a password.")
    if sender is None or not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", sender):
        raise ValueError("SMTP_URL needs MAIL_FROM, an e-mail address.")
    if public is None:
        raise ValueError("SMTP_URL needs PUBLIC_URL: no request decides where a link in a mail leads.")
    user, password = unquote(found.username or ""), unquote(found.password or "")
    return Mail(found.scheme, host, port or _PORTS[found.scheme], user, password, sender)


def provider(
    issuer: str | None, client_id: str | None, client_secret: str | None, name: str | None, public: str | None
) -> Provider | None:
    """The provider of OIDC_ISSUER; None where there is none."""
    if issuer is None:
        return None
    address = urlsplit(issuer)
    safe = address.scheme == "https" or (address.scheme == "http" and address.hostname in LOOPBACK)
    if not safe or not address.hostname or address.query or address.fragment or address.username:
        raise ValueError("OIDC_ISSUER must be an https:// address.")
    if client_id is None or client_secret is None:
        raise ValueError("OIDC_ISSUER needs OIDC_CLIENT_ID and OIDC_CLIENT_SECRET.")
    if public is None:
        raise ValueError("OIDC_ISSUER needs PUBLIC_URL, below which the provider sends people back.")
    return Provider(issuer, client_id, client_secret, name or "single sign-on")


def password_sign_in(text: str | None, there: Provider | None) -> bool:
    """Whether people may sign in with a password of Lockstep's own."""
    if text not in (None, "on", "off"):
        raise ValueError("PASSWORD_SIGN_IN must be on or off.")
    if text == "off" and there is None:
        raise ValueError("PASSWORD_SIGN_IN=off needs OIDC_ISSUER: nobody could sign in.")
    return text != "off"
