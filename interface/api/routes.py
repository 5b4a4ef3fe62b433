"""The addresses under /v1. Nothing here is particular to Gradio: plain routes that its app is given."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from configs.schema import ModelSpec
from engines.base import Message, Usage
from engines.errors import AppError, ModelMissing
from engines.job import Job
from interface.api.errors import ApiError, refusal, stated
from interface.api.following import finish_reason, pieces, stay
from interface.api.images import RequestImages, message
from interface.api.keys import Keys
from interface.api.replies import ALIVE, DONE, Reply, event
from interface.api.requests import ChatRequest, read_request
from interface.api.stops import Stops
from interface.desk import Desk
from interface.i18n import Lang, lang_of

log = logging.getLogger(__name__)

BODY_SECONDS = 300.0
LARGE = 2**20
LARGE_AT_ONCE = 2
"""Requests of more than LARGE bytes that are read and decoded at a time: each takes several times its size."""
HEADERS_AFTER = 15.0
"""Seconds that a stream waits for its first piece, and with it for the right status, before it answers 200 anyway."""
ALIVE_EVERY = 10.0
GONE = 499
"""What servers note for a client that has hung up; nobody reads it."""

Endpoint = Callable[[Request, str], Awaitable[Response]]


class Api:
    """OpenAI's API on a desk. `images` and `keys` are replaced by whoever wants others."""

    def __init__(self, desk: Desk, images: RequestImages | None = None, keys: Keys | None = None) -> None:
        self._desk = desk
        self._images = images or RequestImages(desk.config)
        self._keys = keys or Keys(desk.config.server.api_keys)
        self._large = anyio.Semaphore(LARGE_AT_ONCE)

    def routes(self) -> list[BaseRoute]:
        """What the app is to answer besides the page."""
        served = (
            ("/v1/models", "GET", self.models),
            ("/v1/models/{model:path}", "GET", self.model),
            ("/v1/chat/completions", "POST", self.chat),
        )
        return [
            *(Route(path, self._guarded(endpoint), methods=[method]) for path, method, endpoint in served),
            *(Route(path, self._guarded(self.wrong_method), methods=_METHODS) for path, _, _ in served),
            Route("/v1/{rest:path}", self._guarded(self.unknown), methods=_METHODS),
        ]

    # -- endpoints -----------------------------------------------------------------------------------------------

    async def models(self, request: Request, owner: str) -> Response:
        """What is on disk: loaded models first, and of those the ones that see, which can do all the others can."""
        found = await anyio.to_thread.run_sync(self._here)
        return JSONResponse({"object": "list", "data": found})

    async def model(self, request: Request, owner: str) -> Response:
        name = request.path_params["model"]
        spec = self._desk.library.spec(name)
        found = await anyio.to_thread.run_sync(self._here)
        if not (shown := [one for one in found if one["id"] == spec.id]):
            raise ModelMissing(model=name, tried=())
        return JSONResponse(shown[0])

    async def chat(self, request: Request, owner: str) -> Response:
        asked, job = await self._taken(request, owner)
        stops = Stops(asked.stop)
        answer = pieces(job, stops, request)
        reply = Reply(asked.model, asked.include_usage)
        if asked.stream:
            return await self._stream(asked, answer, reply, stops, _lang(request))
        text = ""
        async with aclosing(answer):
            async for piece in answer:
                if isinstance(piece, Usage):
                    return JSONResponse(reply.whole(text, finish_reason(piece, stops), piece))
                text += piece
        raise AssertionError("an answer ends with its usage")

    async def wrong_method(self, request: Request, owner: str) -> Response:
        raise ApiError(405, "api.wrong_method", "method_not_supported", method=request.method, path=request.url.path)

    async def unknown(self, request: Request, owner: str) -> Response:
        raise ApiError(404, "api.unknown_url", "unknown_url", method=request.method, path=request.url.path)

    # -- within --------------------------------------------------------------------------------------------------

    def _guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """The key is checked first, and every failure is answered in OpenAI's shape."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request, self._keys.owner_of(request))
            except (ApiError, AppError) as error:
                return refusal(error, _lang(request))
            except ClientDisconnect:
                return Response(status_code=GONE)
            except Exception:
                log.exception("%s %s failed", request.method, request.url.path)
                return refusal(AppError(), _lang(request))

        return answer

    async def _taken(self, request: Request, owner: str) -> tuple[ChatRequest, Job]:
        """The request, read and put into the queue."""
        limit = self._desk.config.uploads.max_request
        length = _length(request, limit)
        if length is not None and length <= LARGE:
            return await self._queued(request, owner, length)
        async with self._large:
            return await self._queued(request, owner, limit)

    async def _queued(self, request: Request, owner: str, most: int) -> tuple[ChatRequest, Job]:
        body = await _body(request, most)
        asked = await anyio.to_thread.run_sync(_read, body)
        del body
        spec = await anyio.to_thread.run_sync(self._model_for, asked)
        submit = partial(self._desk.runner.submit, spec.id, settings=asked.settings(spec.defaults), owner=owner)
        if not asked.images:
            return asked, submit(messages=[message(one, {}) for one in asked.turns])
        folder = self._images.folder()
        try:
            job = submit(messages=await self._messages(asked, request, folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._images.remove_after(job, folder)
        return replace(asked, turns=()), job  # which hold the images as they were sent, some twenty megabytes each

    async def _messages(self, asked: ChatRequest, request: Request, folder: Path) -> list[Message]:
        images = {}
        for one in asked.images:
            images[one.where] = await self._images.accept(one, folder)
            await stay(request)
        return [message(one, images) for one in asked.turns]

    def _model_for(self, asked: ChatRequest) -> ModelSpec:
        """The model that is asked. Raises ModelUnknown, ModelMissing, TooManyImages, or ApiError if it sees nothing."""
        spec = self._desk.library.spec(asked.model)
        if self._desk.library.folder(spec.id) is None:
            raise ModelMissing(model=spec.id, tried=())
        if asked.images and spec.kind != "vision":
            seeing = [one.id for one in self._desk.library.catalogue.models if one.kind == "vision"]
            where = asked.images[0].where
            raise ApiError(400, "api.sees_nothing", "invalid_value", where, title=spec.title, seeing=", ".join(seeing))
        self._images.check(asked)
        return spec

    def _here(self) -> list[dict[str, Any]]:
        library, status = self._desk.library, self._desk.runner.status()
        loaded = {one.model for one in status.engaged} | ({status.loading} if status.loading else set())
        folders = [(spec, library.folder(spec.id)) for spec in library.catalogue.models]
        here = [(spec, folder) for spec, folder in folders if folder is not None]
        here.sort(key=lambda one: 0 if one[0].id not in loaded else -2 if one[0].kind == "vision" else -1)
        return [
            {"id": spec.id, "object": "model", "created": int(folder.stat().st_mtime), "owned_by": "shusheng-desk"}
            for spec, folder in here
        ]

    async def _stream(
        self, asked: ChatRequest, answer: AsyncGenerator[str | Usage, None], reply: Reply, stops: Stops, lang: Lang
    ) -> Response:
        first: str | Usage = ""
        began = time.monotonic()
        async for first in answer:
            if first or time.monotonic() - began > HEADERS_AFTER:
                break
        return Events(_chunks(first, answer, reply, stops, lang, asked.include_usage))


class Events(StreamingResponse):
    """Server-sent events that end with the connection, whoever ends that."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        # nginx would gather the pieces otherwise.
        self._chunks = chunks
        super().__init__(chunks, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.headers["content-type"] = "text/event-stream; charset=utf-8"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)


async def _chunks(
    first: str | Usage,
    answer: AsyncGenerator[str | Usage, None],
    reply: Reply,
    stops: Stops,
    lang: Lang,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    """An answer's pieces as events; a failure in its middle is one, too."""
    try:
        async with aclosing(answer):
            yield reply.chunk({"role": "assistant", "content": "", "refusal": None})
            sent, piece = time.monotonic(), first
            while not isinstance(piece, Usage):
                if piece or time.monotonic() - sent > ALIVE_EVERY:
                    sent = time.monotonic()
                    yield reply.chunk({"content": piece}) if piece else ALIVE
                piece = await anext(answer)
            yield reply.chunk({}, finish_reason(piece, stops))
            if include_usage:
                yield reply.usage_chunk(piece)
            yield DONE
    except (ApiError, AppError) as error:
        yield event(stated(error, lang)[1])
    except ClientDisconnect:
        return
    except Exception:
        log.exception("a stream failed")
        yield event(stated(AppError(), lang)[1])


def _length(request: Request, limit: int) -> int | None:
    """The size that a request announces. Raises ApiError before anything of it is read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another site can send anything else without asking first.
        raise ApiError(400, "api.content_type", "unsupported_content_type", sent=kind)
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return None
    if int(length) > limit:
        raise ApiError(413, "api.too_large", "request_too_large", limit=limit)
    return int(length)


async def _body(request: Request, most: int) -> bytes:
    data = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for piece in request.stream():
                data += piece
                if len(data) > most:
                    raise ApiError(413, "api.too_large", "request_too_large", limit=most)
    except TimeoutError:
        raise ApiError(408, "api.too_slow", "request_timeout", seconds=BODY_SECONDS) from None
    return bytes(data)


def _read(body: bytes) -> ChatRequest:
    def not_json(name: str) -> Any:
        raise ValueError(name)

    try:
        parsed = json.loads(body, parse_constant=not_json)
    except (ValueError, RecursionError):
        raise ApiError(400, "api.bad_json", "invalid_json") from None
    return read_request(parsed)


def _lang(request: Request) -> Lang:
    return lang_of(request.headers.get("accept-language"))


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
