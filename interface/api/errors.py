"""Failures as OpenAI's server states them: a status, and an object that its clients know how to read."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from engines import errors
from engines.errors import AppError
from interface.i18n import Lang, t
from interface.messages import explain

RETRY_AFTER = 5
"""Seconds that a client is told to wait for a place in the queue."""

STATUS: dict[type[AppError], tuple[int, str, str | None]] = {
    errors.PromptTooLong: (400, "context_length_exceeded", "messages"),
    errors.TooManyImages: (400, "too_many_images", "messages"),
    errors.SettingOutOfRange: (400, "invalid_value", None),
    errors.ImageNotFetched: (400, "invalid_image_url", "messages"),
    errors.ImageRejected: (422, "invalid_image", "messages"),
    errors.ModelUnknown: (404, "model_not_found", "model"),
    errors.ModelMissing: (404, "model_not_found", "model"),
    errors.Busy: (429, "rate_limit_exceeded", None),
    errors.BusyWithYours: (429, "rate_limit_exceeded", None),
    errors.ServerError: (502, "upstream_error", None),
    errors.ModelError: (503, "model_unusable", "model"),
    errors.CapacityError: (503, "not_enough_memory", None),
    errors.EngineError: (500, "engine_error", None),
}
"""Status, code and parameter of an error: the first class that it is one of."""

HINT_FOR_PAGES = (errors.ImageRejected, errors.OutOfMemory, errors.EngineError)
"""Their hints speak of what the page keeps."""


class ApiError(Exception):
    """A request that cannot be served as it is. `key` names the sentence that words it, `facts` fill that in."""

    def __init__(self, status: int, key: str, code: str | None = None, param: str | None = None, **facts: Any) -> None:
        super().__init__(f"{key}: {facts}")
        self.status, self.key, self.code, self.param, self.facts = status, key, code, param, facts


def stated(error: ApiError | AppError, lang: Lang) -> tuple[int, dict[str, Any]]:
    """The status, and OpenAI's error object."""
    if isinstance(error, ApiError):
        status, code, param = error.status, error.code, error.param
        facts = {
            name: t(value, lang) if name in ("expected", "found") else value for name, value in error.facts.items()
        }
        message = t(error.key, lang, param=param, **facts)
    else:
        unknown = (500, "internal_error", None)
        status, code, param = next((STATUS[cls] for cls in STATUS if isinstance(error, cls)), unknown)
        if _busy_elsewhere(error):
            status, code, param = STATUS[errors.Busy]
        notice = explain(error, lang)
        known = code != "internal_error" and not isinstance(error, HINT_FOR_PAGES)
        message = notice.line if known else f"{notice.opening} {notice.body}"
    param = None if param is None else _bounded(param, 200)
    kind = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return status, {"error": {"message": _bounded(message, 2000), "type": kind, "param": param, "code": code}}


def _busy_elsewhere(error: ApiError | AppError) -> bool:
    """Whether a server that answers for us has too much to do: for its clients, that is ours."""
    return isinstance(error, errors.ServerError) and error.facts.get("reason") == "busy"


def _bounded(text: str, length: int) -> str:
    """Text that has what was sent in it: not all of it, and no half characters, which could not be sent back."""
    return text[:length].encode("utf-8", "replace").decode("utf-8")


def refusal(error: ApiError | AppError, lang: Lang) -> JSONResponse:
    """The whole answer to a request that failed."""
    status, body = stated(error, lang)
    headers = {}
    if status == 429:
        headers["retry-after"] = str(error.facts.get("seconds") or RETRY_AFTER)
    if status == 503 and not isinstance(error, errors.OutOfMemory):
        headers["x-should-retry"] = "false"  # nothing changes by itself: OpenAI's clients would try twice more
    return JSONResponse(body, status, headers)
