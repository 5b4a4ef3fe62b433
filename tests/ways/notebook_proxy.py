"""A stand-in for jupyter-server-proxy 4.6, which would need all of Jupyter: does to requests what that does.

python notebook_proxy.py PORT PREFIX ADDRESS serves what is at ADDRESS under PREFIX. The app has been seen behind the
real one, too.
"""

from __future__ import annotations

import sys

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
TOLD = ("X-Forwarded-Context", "X-ProxyContextPath", "X-Forwarded-Prefix")
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


def app(prefix: str, there: str) -> Starlette:
    client = httpx.AsyncClient(timeout=None, trust_env=False)

    async def forward(request: Request) -> Response:
        headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
        url = httpx.URL(there).join(request.url.path.removeprefix(prefix) or "/")
        asked = client.build_request(
            request.method,
            url.copy_with(query=request.url.query.encode() or None),
            headers=[*headers, *((name, prefix) for name in TOLD)],
            content=request.stream(),
        )
        answer = await client.send(asked, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        close = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=close)

    return Starlette(routes=[Route(prefix + rest, forward, methods=METHODS) for rest in ("", "/{path:path}")])


if __name__ == "__main__":
    port, prefix, there = sys.argv[1:]
    uvicorn.run(app(prefix, there), host="127.0.0.1", port=int(port), log_level="warning", timeout_graceful_shutdown=1)
