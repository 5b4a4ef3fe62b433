"""One answer of LMDeploy's pipeline: a request on its event loop, whose tokens come over to the thread that waits.

Knows its pipeline's async engine and sessions, and nothing of images or prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engines.base import Emit, FinishReason
from engines.errors import EngineFailed

ALIVE_EVERY = 0.25
SILENCE = 60.0
"""Seconds without a token after which LMDeploy has hung: after an error of its own it never answers again."""
ABORT_EVERY = 0.05
"""Seconds between two aborts: one that comes before the engine has the request does nothing."""


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing that an answer's request tells: why it ended, or what was raised."""

    reason: str
    error: BaseException | None = None


class Stream:
    """One request on LMDeploy's event loop, and its tokens as they come. `reason` is there after the last of them."""

    reason: FinishReason = "stop"

    def __init__(
        self, pipe: Any, turn: asyncio.Lock, session: Any, prompt_tokens: int, request: dict[str, Any], emit: Emit
    ) -> None:
        self._pipe, self._turn, self._session, self._emit = pipe, turn, session, emit
        self._told: queue.SimpleQueue[list[int] | _End] = queue.SimpleQueue()
        self._end: _End | None = None
        self._begun = self._stopped = False  # for the event loop alone
        self._run(self._request(request, prompt_tokens))

    def __iter__(self) -> Iterator[int]:
        heard = time.monotonic()
        while self._end is None:
            try:
                told = self._told.get(timeout=ALIVE_EVERY)
            except queue.Empty:
                if time.monotonic() - heard > SILENCE:
                    raise EngineFailed(kind="silence") from None
                self._emit("")
                continue
            heard = time.monotonic()
            if isinstance(told, _End):
                self._end = told
            else:
                yield from told
        self._check(self._end, "stop", "length")
        self.reason = "length" if self._end.reason == "length" else "stop"

    def stop(self) -> None:
        """Aborts until the engine has let go: before it has taken the request up, it does not hear an abort."""
        while self._end is None:
            self._run(self._abort())
            deadline = time.monotonic() + ABORT_EVERY
            while self._end is None and (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    told = self._told.get(timeout=left)
                    self._end = told if isinstance(told, _End) else None
        self._check(self._end, "stop", "length", "abort")

    @staticmethod
    def _check(end: _End, *reasons: str) -> None:
        if end.error is not None or end.reason not in reasons:
            raise EngineFailed(kind=type(end.error).__name__ if end.error else end.reason) from end.error

    async def _request(self, request: dict[str, Any], prompt_tokens: int) -> None:
        """LMDeploy's own door for ids and images."""
        reason, error = "", None
        try:
            engine = self._pipe.async_engine
            prepared = await engine.preprocess(session_id=self._session, **request)
            if prepared.input_token_len != prompt_tokens:
                raise ValueError(f"LMDeploy counts {prepared.input_token_len} tokens, not {prompt_tokens}")
            async with contextlib.AsyncExitStack() as turn:
                await turn.enter_async_context(self._turn)
                if self._stopped:
                    return await self._session.async_close()
                self._begun = True
                self._told.put([])  # waiting for its turn was not the engine's silence
                async for piece in engine.generate(prepared):
                    await turn.aclose()
                    self._told.put(list(piece.token_ids or []))
                    reason = piece.finish_reason or reason
        except BaseException as failure:
            error = failure
        self._told.put(_End(reason, error))

    async def _abort(self) -> None:
        if self._begun:
            await self._session.async_abort()
        elif not self._stopped:
            self._stopped = True
            self._told.put(_End("abort"))

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._pipe.internal_thread.loop)
