"""A real OpenID Connect provider (oidc-provider-mock) in a process of its own, and somebody's browser there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests

from tests.deploy.launcher import free_port, wait_until


class Provider:
    """Where it is; who signs in there is up to the test."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def tell(self, subject: str, **claims: object) -> None:
        """What it says of a person from now on."""
        requests.put(f"{self.issuer}/users/{subject}", json=claims, timeout=20).raise_for_status()

    def agree(self, address: str, subject: str) -> str:
        """Sign in as this person at the address; the path of Lockstep to which the browser is sent back."""
        answer = requests.post(address, data={"sub": subject}, allow_redirects=False, timeout=20)
        assert answer.status_code == 302, answer.text
        back = urlsplit(answer.headers["Location"])
        return f"{back.path}?{back.query}"

    def deny(self, address: str) -> str:
        """As :meth:`agree`, of somebody who says no."""
        answer = requests.post(address, data={"action": "deny"}, allow_redirects=False, timeout=20)
        back = urlsplit(answer.headers["Location"])
        return f"{back.path}?{back.query}"


@contextmanager
def running() -> Iterator[Provider]:
    """The provider, ended afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    issuer = f"http://localhost:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the provider ended"
        try:
            return requests.get(f"{issuer}/.well-known/openid-configuration", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(ready, 60, "no provider")
        yield Provider(issuer)
    finally:
        process.terminate()
        process.wait(20)
