"""A server that speaks OpenAI's chat protocol over HTTP, and says what a script tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS_IN, TOKENS_OUT = 50, 2


@dataclass(frozen=True)
class Reply:
    """What one request gets: a status, and a text, or raw bytes; some seconds later."""

    text: str = "7"
    status: int = 200
    raw: str | None = None
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[int, dict[str, Any]], Reply]
"""From the number of a request, from 0 on, and its body to the reply."""


@dataclass
class JudgeServer:
    """A running server.

    Attributes:
        url: base URL for clients.
        bodies: of all requests that were answered with status 200.
        keys: `Authorization` of every request.
        asked: number of requests.
    """

    script: Script
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    asked: int = 0

    @property
    def questions(self) -> list[str]:
        """What was asked in requests that were answered."""
        return [body["messages"][0]["content"] for body in self.bodies]


@contextmanager
def judge_server(script: Script = lambda number, body: Reply()) -> Iterator[JudgeServer]:
    server = JudgeServer(script)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = server.asked
                server.asked += 1
                server.keys.append(self.headers["Authorization"])
                reply = server.script(number, body)
                if reply.status == 200:
                    server.bodies.append(body)
            time.sleep(reply.seconds)
            content = {
                "choices": [{"message": {"role": "assistant", "content": reply.text}}],
                "usage": {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT},
            }
            sent = (reply.raw or json.dumps(content)).encode()
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)
            except OSError:  # whoever asked has gone
                pass

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        server.url = f"http://127.0.0.1:{running.server_port}/v1"
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()
