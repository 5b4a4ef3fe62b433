"""Answers of a server elsewhere, as an engine: LMDeploy's api_server or its proxy, vLLM, SGLang, or another desk.

It lives in a worker like the others, so that everything around an answer (queue, cancel, silence, death) is the same.
A question is sent once. Only where no connection came about, so that nothing was sent, is the next address tried.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from configs.schema import Remote, server_of
from engines.base import Emit, FinishReason, GenerationSettings, ImagePart, Message, Part, TextPart, Usage
from engines.errors import Cancelled, ServerError
from engines.memory import LoadSettings
from engines.servers import client, listed, malformed, named, quoted, refusal

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds that a wait for the server may keep a cancel waiting."""
T = TypeVar("T")


@dataclass
class _Answer:
    """What has come of one answer: `pieces` with text, when the first did, and what the server said of its end."""

    started: float = field(default_factory=time.monotonic)
    pieces: int = 0
    first: float = 0.0
    reason: FinishReason | None = None
    usage: dict[str, Any] | None = None

    def end(self, reason: FinishReason, context: int) -> Usage:
        """The server's count, or, where it gives none, its pieces counted as tokens."""
        counted = self.usage or {}
        prompt, new = _number(counted, "prompt_tokens"), _number(counted, "completion_tokens")
        cached = _number(counted.get("prompt_tokens_details"), "cached_tokens") or 0
        seconds = time.monotonic() - self.started
        if prompt is None or new is None:
            return Usage(0, 0, self.pieces, self.first, seconds, reason, estimated=True)
        return Usage(prompt, cached, new, self.first, seconds, reason, context, prompt_limit=context)


class RemoteEngine:
    """One model of one or several servers. Raises ServerError if none of them can be asked for it."""

    def __init__(self, remote: Remote, settings: LoadSettings, stage: Callable[[str], None] = lambda name: None):
        stage("connecting")
        self.parallel = remote.parallel
        self._remote, self._context = remote, settings.context
        self._failed: dict[str, float] = {}
        """When an address last could not be connected to; such ones are tried last."""
        asyncio.run(self._meet())

    def generate(self, messages: Sequence[Message], settings: GenerationSettings, emit: Emit) -> Usage:
        """See engines.base.Engine. Raises ServerError; what was emitted before is the answer so far."""
        body = body_of(messages, settings.checked(), self._remote)
        return asyncio.run(self._answer(body, emit))

    def count_tokens(self, messages: Sequence[Message]) -> int | None:
        """None: only the server knows its tokenizer, and it counts what it has answered."""
        return None

    def memory(self) -> int:
        return 0

    def close(self) -> None: ...

    # -- within --------------------------------------------------------------------------------------------------

    async def _meet(self) -> None:
        """Finds the model in a server's list, and its context there. Raises what the last one failed with."""
        failure: ServerError | None = None
        for address in self._order():
            try:
                models = await listed(address, self._remote)
                model = chosen(models, self._remote.model, address)
            except ServerError as error:
                self._failed[address] = time.monotonic()
                log.warning("%s", error)
                failure = error
                continue
            self._remote = replace(self._remote, model=model["id"])
            told = model.get("max_model_len")
            self._context = self._context or (told if isinstance(told, int) else 0)
            return
        assert failure is not None  # noqa: S101  there is an address
        raise failure

    def _order(self) -> list[str]:
        return sorted(self._remote.addresses, key=lambda one: self._failed.get(one, 0.0))

    async def _answer(self, body: dict[str, Any], emit: Emit) -> Usage:
        answer = _Answer()
        try:
            async with AsyncExitStack() as stack:
                address, response = await self._asked(stack, body, emit)
                with named(address):
                    await self._read(answer, address, response, emit)
        except Cancelled:
            return answer.end("cancelled", self._context)
        assert answer.reason is not None  # noqa: S101  _read has seen to it
        return answer.end(answer.reason, self._context)

    async def _asked(self, stack: AsyncExitStack, body: dict[str, Any], emit: Emit) -> tuple[str, Any]:
        """The address that took the question, and its response; both end with `stack`, and the connection with them."""
        failures: list[ServerError] = []
        for address in self._order():
            http = await stack.enter_async_context(client(address, self._remote))
            request = http.build_request("POST", f"{address}/chat/completions", json=body, headers=ACCEPT)
            try:
                with named(address):
                    sent = http.send(request, stream=True)
                    response = await alive(sent, emit, self._remote.first_token, server_of(address))
            except ServerError as error:
                if error.facts["reason"] != "unconnected":
                    raise
                log.warning("%s", error)
                self._failed[address] = time.monotonic()
                failures.append(error)
                continue
            stack.push_async_callback(response.aclose)
            if response.status_code != 200:
                raise await alive(
                    refusal(response, address, self._remote), emit, self._remote.silence, server_of(address)
                )
            return address, response
        if len(failures) == 1:
            raise failures[0]
        raise ServerError(server=self._remote.servers, reason="unconnected", why=failures[-1].facts["why"])

    async def _read(self, answer: _Answer, address: str, response: Any, emit: Emit) -> None:
        """Hands the answer on, piece by piece. Raises ServerError unless the server says that it is complete."""
        import httpx2

        if "text/event-stream" not in response.headers.get("content-type", ""):
            # LMDeploy's proxy says so, with status 200, that it has lost all its nodes.
            body = await alive(response.aread(), emit, self._remote.silence, server_of(address))
            raise malformed(address, quoted(body[: 2**16]))
        events = aiter(httpx2.EventSource(response))
        while True:
            # A token may take longer than the next: the prompt is read first, and others may be before us.
            limit = self._remote.silence if answer.pieces else self._remote.first_token
            event = await alive(_next(events), emit, limit, server_of(address))
            if event is None or event.data == "[DONE]":
                if event is None and answer.reason is None:
                    raise ServerError(server=server_of(address), reason="cut")
                answer.reason = answer.reason or "stop"
                return
            if event.data:
                self._take(answer, _parsed(event.data, address), address, emit)

    def _take(self, answer: _Answer, chunk: dict[str, Any], address: str, emit: Emit) -> None:
        if chunk.get("error") or chunk.get("object") == "error":
            raise ServerError(server=server_of(address), reason="broken", status=0, detail=quoted(json.dumps(chunk)))
        if isinstance(chunk.get("usage"), dict):
            answer.usage = chunk["usage"]
        try:
            choice = (chunk.get("choices") or [{}])[0]
            text = (choice.get("delta") or {}).get("content") or ""
            finish = choice.get("finish_reason")
        except (AttributeError, TypeError, KeyError):
            raise malformed(address) from None
        if not isinstance(text, str):
            raise malformed(address)
        if text:
            answer.first = answer.first or time.monotonic() - answer.started
            answer.pieces += 1
            emit(text)
        if finish == "error":
            raise ServerError(server=server_of(address), reason="broken", status=0, detail="")
        if finish:
            answer.reason = "length" if finish == "length" else "stop"


ACCEPT = {"accept": "text/event-stream", "cache-control": "no-store"}


def chosen(models: Sequence[dict[str, Any]], wanted: str, address: str) -> dict[str, Any]:
    """The wanted one of a server's models, the first if none is named. Raises ServerError("model" or "unnamed")."""
    if not models:  # `transformers serve` lists nothing, and answers
        if not wanted:
            raise ServerError(server=server_of(address), reason="unnamed")
        return {"id": wanted}
    found = next((one for one in models if not wanted or one["id"] == wanted), None)
    if found is None:
        known = ", ".join(one["id"] for one in models[:10])
        raise ServerError(server=server_of(address), reason="model", model=wanted, detail=known)
    return found


def body_of(messages: Sequence[Message], settings: GenerationSettings, remote: Remote) -> dict[str, Any]:
    """The request, in OpenAI's fields; of others those that the server takes, and only where they change something."""
    body: dict[str, Any] = {
        "model": remote.model,
        "messages": [{"role": one.role, "content": _content(one, settings)} for one in messages],
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if settings.seed is not None:
        body["seed"] = settings.seed
    if settings.top_k and "top_k" in remote.fields:
        body["top_k"] = settings.top_k
    if settings.repetition_penalty != 1.0 and "repetition_penalty" in remote.fields:
        body["repetition_penalty"] = settings.repetition_penalty
    if messages[-1].role == "assistant" and "continue_final_message" in remote.fields:
        # vLLM's and SGLang's word for it; LMDeploy goes on with such a message by itself.
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _content(message: Message, settings: GenerationSettings) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.text
    return [_part(one, settings) for one in message.parts]


def _part(part: Part, settings: GenerationSettings) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    # OpenAI's words for detail; "medium" is none of them, and servers refuse words that they do not know.
    detail = {"detail": settings.detail} if settings.detail in ("low", "high") else {}
    return {"type": "image_url", "image_url": {"url": data_url(part), **detail}}


def data_url(image: ImagePart) -> str:
    """The image as the gate stored it, which is in WebP."""
    return "data:image/webp;base64," + base64.b64encode(image.path.read_bytes()).decode("ascii")


async def alive(work: Awaitable[T], emit: Emit, seconds: float, server: str) -> T:
    """What `work` comes to. Meanwhile `emit` is asked whether anybody wants it; Raises ServerError after `seconds`."""
    task = asyncio.ensure_future(work)
    end = time.monotonic() + seconds
    try:
        while not (await asyncio.wait({task}, timeout=TICK))[0]:
            emit("")
            if time.monotonic() > end:
                raise ServerError(server=server, reason="silent", seconds=seconds)
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _number(value: Any, name: str) -> int | None:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, int) else None


async def _next(events: AsyncIterator[T]) -> T | None:
    return await anext(events, None)


def _parsed(data: str, address: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise malformed(address, quoted(data)) from None
    if not isinstance(chunk, dict):
        raise malformed(address, quoted(data))
    return chunk
