"""A real mail server (aiosmtpd) over TLS with a certificate of its own, which keeps what it gets."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.deploy.launcher import free_port

USER, PASSWORD = "lockstep@example.com", "pa:ss@word"


class Postbox:
    """Mails in the order in which they came; the mails' recipients of the envelope beside them."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.signed_in = 0

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        self.mails.append(message_from_bytes(content, _class=EmailMessage, policy=policy.default))
        return "250 OK"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.signed_in += good
        return AuthResult(success=good)


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signed itself, with its key in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "mail.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


class _Server(Controller):
    def _trigger_server(self) -> None:
        """A first connection, without TLS: aiosmtpd's own would use the server's context for a client."""
        with socket.create_connection((self.hostname, self.port), 10):
            pass


@contextmanager
def running(folder: Path, *, starttls: bool = False) -> Iterator[tuple[int, Postbox, Path]]:
    """Its port, what it got, and the certificate to trust."""
    path, box = certificate(folder), Postbox()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    options: dict[str, Any] = {"authenticator": box.authenticate, "auth_required": True}
    if starttls:
        options |= {"tls_context": context, "require_starttls": True}
    else:
        options |= {"ssl_context": context, "auth_require_tls": False}
    port = free_port()
    server = _Server(box, hostname="127.0.0.1", port=port, **options)
    server.start()
    try:
        yield port, box, path
    finally:
        server.stop()
