"""A job followed for a client at the other end of a connection; when that is gone, the job is cancelled."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from engines.base import Usage
from engines.job import Delta, Event, Job
from interface.api.errors import ApiError
from interface.api.stops import Stops

# One thread for each answer that is followed: the runner's queue bounds them.
_threads = anyio.CapacityLimiter(math.inf)


async def stay(request: Request) -> None:
    """Raises ClientDisconnect if the client is gone."""
    if await request.is_disconnected():
        raise ClientDisconnect


async def pieces(job: Job, stops: Stops, request: Request) -> AsyncGenerator[str | Usage, None]:
    """The answer's text up to a stop sequence, "" as a sign of life several times a second, at last its usage.

    Raises AppError, ApiError when the app ended the job, and ClientDisconnect.
    """
    events = iter(job)
    try:
        while (event := await anyio.to_thread.run_sync(_next, events, limiter=_threads)) is not None:
            await stay(request)
            match event:
                case Delta(text):
                    yield stops.feed(text)
                    if stops.found:
                        job.cancel()
                case Usage():
                    if event.reason == "cancelled" and not stops.found:
                        raise ApiError(503, "api.ended", "server_shutting_down")
                    yield stops.rest()
                    yield event
                case _:
                    yield ""
    finally:
        if not job.ended:
            job.cancel()


def finish_reason(usage: Usage, stops: Stops) -> str:
    """Why an answer ended, as OpenAI says it."""
    return "length" if usage.reason == "length" and not stops.found else "stop"


def _next(events: Iterator[Event]) -> Event | None:
    return next(events, None)
