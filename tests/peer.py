"""A server of the tests' own that speaks OpenAI's API, or misbehaves, as each test says. Real HTTP on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "internvl2-2b"
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 4096}]}


class Talk(BaseHTTPRequestHandler):
    """One request. `sse` begins a stream, `say` adds an event to it."""

    protocol_version = "HTTP/1.1"
    server: Peer

    def do_GET(self) -> None:
        self.server.listed += 1
        if self.server.list is not None:
            return self.server.list(self)
        self.reply(200, MODELS)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((dict(self.headers), body))
        self.server.script(self)

    def reply(self, status: int, value: Any, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content_type": "application/json", "content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def sse(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")  # its end is the stream's
        self.end_headers()
        self.close_connection = True

    def say(self, *words: str, finish: str | None = None, **more: Any) -> None:
        for word in words:
            self.event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} | more)
        if finish:
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]} | more)

    def event(self, value: Any) -> None:
        self.raw(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode())

    def raw(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def until_hung_up(self, seconds: float = 20) -> None:
        """Talks on until the client is gone, which is noted."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                self.say("on ")
                time.sleep(0.02)
        except OSError:
            self.server.hung_up.set()

    def log_message(self, format: str, *args: Any) -> None: ...


class Peer(ThreadingHTTPServer):
    """Answers every question by `script`; `list` is for the list of models, where that is to be another."""

    daemon_threads = True

    def __init__(self, script: Callable[[Talk], None], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Talk)
        self.script, self.list = script, None
        self.list: Callable[[Talk], None] | None
        self.listed = 0
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.hung_up = threading.Event()
        self.name = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.name}/v1"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None: ...

    def close(self) -> None:
        self.shutdown()
        self.server_close()
