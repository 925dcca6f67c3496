"""Starts, asks and ends the moto child process."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from demo.aws.messages import Request, Response

ANSWER_SECONDS = 60
_HOP_BY_HOP = {
    "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection", "expect",
    "content-length", "date", "server",
}  # fmt: skip


class Moto:
    """One moto server, started at the first need (about 1.5 s) and ended by close(). Its resources are in
    memory.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._closed = False

    @property
    def started(self) -> bool:
        """Whether anything has been forwarded or start() was called."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The child's process id, once it was started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the child without waiting until it listens."""
        with self._lock:
            self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise ConnectionError("the stand-in is stopping")
        if self._process is None:
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "demo.aws.moto_child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=Path(__file__).resolve().parents[2],
                    # Nothing of the surrounding AWS or Python settings may change what moto does.
                    env={
                        "PATH": os.environ.get("PATH", os.defpath),
                        "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true",
                    },
                )
        return self._process

    def _listening(self) -> int:
        with self._lock:
            process = self._spawn()
            if not self._port:
                line = process.stdout.readline() if process.stdout else b""
                if not line:
                    raise ConnectionError(f"moto did not start; see {self._log}")
                self._port = int(line)
            return self._port

    def ask(self, request: Request) -> Response:
        """Hand a request on as it is (Host included: moto derives the bucket style from it). Raises
        OSError.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._listening(), timeout=ANSWER_SECONDS)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for key, value in request.headers:
                if key.lower() not in _HOP_BY_HOP:
                    connection.putheader(key, value)
            connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            answer = connection.getresponse()
            body = answer.read()
            headers = [(key, value) for key, value in answer.getheaders() if key.lower() not in _HOP_BY_HOP]
            length = answer.getheader("Content-Length") if request.method == "HEAD" else None
            return Response(answer.status, body, headers, int(length) if length else None)
        except http.client.HTTPException as error:
            raise ConnectionError(type(error).__name__) from error
        finally:
            connection.close()

    def bucket_names(self) -> list[str]:
        """The S3 buckets that exist, asked past the front; none while moto was never needed."""
        if not self.started:
            return []
        # Moto finds the service in the scope and, with its own checks off, looks at nothing else.
        scope = "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request, SignedHeaders=host"
        answer = self.ask(Request("GET", "/", [("Host", "127.0.0.1"), ("Authorization", f"{scope}, Signature=0")], b""))
        return sorted(re.findall(r"<Bucket>.*?<Name>([^<]+)</Name>", answer.body.decode(), re.DOTALL))

    def close(self) -> None:
        """End the child and wait for it."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is None:
            return
        # Its resources are in memory: there is nothing to save.
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
