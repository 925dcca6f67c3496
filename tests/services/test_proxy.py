"""The operator's proxy is the way to STS for codes and for `flask doctor` alike, wherever it was set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import config
from services import sts_reach
from services.mfa import sts

STS = "http://sts.nowhere.invalid"


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers 503 to everything, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join(10)


def settings(tmp_path: Path, **more: str) -> config.Config:
    return config.load({"LOCKSTEP_HOME": str(tmp_path / "home"), "AWS_ENDPOINT_URL_STS": STS, **more})


def try_a_code(using: config.Config) -> str:
    keys = sts.LongLivedKeys("AKIAIOSFODNN7EXAMPLE", "secret", "GAHT12345678", "eu-west-1")
    with pytest.raises(sts.StsRefused) as caught:
        sts.get_session_token(using, keys, "123456", 900)
    return caught.value.answer.reason


def test_codes_and_doctor_take_the_proxy_of_the_settings(
    tmp_path: Path, proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "proxy").write_text(address + "\n")
    found = settings(tmp_path, HTTP_PROXY_FILE=str(tmp_path / "proxy"))
    assert try_a_code(found) == "no_answer"
    sts_reach.ask(found)
    assert asked == [f"POST {STS}/", f"GET {STS}/"] or asked == [f"POST {STS}/", f"GET {STS}"]


def test_no_other_proxy_is_taken(tmp_path: Path, proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, asked = proxy
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.delenv("no_proxy", raising=False)
    for found in (settings(tmp_path), settings(tmp_path, HTTP_PROXY=address, NO_PROXY=".invalid")):
        assert try_a_code(found) == "unreachable"
        with pytest.raises(sts_reach.Unreachable):
            sts_reach.ask(found)
    assert asked == []
