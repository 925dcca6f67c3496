"""Sending mail, where the operator named a server (SMTP_URL). Always over TLS, except to this machine itself."""

from __future__ import annotations

import logging
import smtplib
import ssl
from email.message import EmailMessage

from flask import current_app

from config import Config
from extensions import db
from services.errors import LockstepError

log = logging.getLogger(__name__)

#: Seconds that the server may take for each answer.
_PATIENCE = 10


class MailFailed(LockstepError):
    """The server did not take the mail."""


def configured() -> bool:
    """Whether mails can be sent at all."""
    return _settings().mail is not None


def send(to: str, subject: str, text: str) -> None:
    """Hand one mail to the server, while no transaction is open. Raises :class:`MailFailed`; neither logs the text."""
    db.session.rollback()
    settings = _settings().mail
    if settings is None:
        raise MailFailed("No mail server is configured.")
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.sender, to, subject
    message.set_content(text)
    try:
        with _connection() as server:
            server.send_message(message)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        # Not its text: servers quote addresses.
        log.error("a mail was not sent: %s", type(error).__name__)
        raise MailFailed("The mail server did not take the mail.") from None


def _connection() -> smtplib.SMTP:
    settings = _settings().mail
    if settings is None:
        raise MailFailed("No mail server is configured.")
    trusted = ssl.create_default_context(cafile=_settings().operator.get("SSL_CERT_FILE"))
    if settings.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, settings.port, timeout=_PATIENCE, context=trusted)
    else:
        server = smtplib.SMTP(settings.host, settings.port, timeout=_PATIENCE)
    try:
        if settings.scheme == "smtp+starttls":
            server.starttls(context=trusted)  # raises where the server has none: nothing goes in clear
        if settings.user:
            server.login(settings.user, settings.password)
    except BaseException:
        server.close()
        raise
    return server


def _settings() -> Config:
    found: Config = current_app.config["LOCKSTEP"]
    return found
