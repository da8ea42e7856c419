"""A proxy in front of an object store that answers 500, cuts connections, or takes its time."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Faults:
    """Which requests go wrong, and how many did.

    Attributes:
        kind: `500`, `cut`, `slow` or `lost reply`: done, but the answer never arrives.
        every: one request in so many goes wrong.
        struck: how many did.
    """

    def __init__(self, kind: str, every: int) -> None:
        self.kind, self.every, self.struck = kind, every, 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def strikes(self) -> bool:
        with self._lock:
            hit = next(self._numbers) % self.every == 0
            self.struck += hit
            return hit


@contextmanager
def faulty_proxy(target: str, faults: Faults) -> Iterator[str]:
    """The URL of a proxy to `target`, `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            wrong = faults.strikes()
            if wrong and faults.kind == "500":
                self._answer(500, b"<Error><Code>InternalError</Code></Error>")
                return
            if wrong and faults.kind == "cut":
                self.close_connection = True
                self.connection.close()
                return
            if wrong and faults.kind == "slow":
                time.sleep(0.3)
            connection = http.client.HTTPConnection(target, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            if wrong and faults.kind == "lost reply":
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            size = response.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", size or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
