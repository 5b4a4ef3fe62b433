"""The body of POST /v1/chat/completions -> a checked request. docs/api.md says what becomes of each field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.schema import Defaults
from engines.base import SETTING_RANGES, Detail, GenerationSettings, Role, TextPart
from interface.api.errors import ApiError
from interface.api.fields import Fields, invalid, typed

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
DETAILS: dict[str, Detail] = {"auto": "auto", "low": "low", "high": "high", "original": "high"}
MOST_STOPS = 4
MOST_MESSAGES = 2048
MOST_TEXT = 2**20
"""Characters, several times what any model's window holds: more would only keep an engine busy with reading it."""

LABELS = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "parallel_tool_calls",
)  # fmt: skip
"""Fields that say something about a request to OpenAI and nothing about its answer."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0, 0.0),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that would change the answer and that no engine here has: refused, unless they say what is the case anyway."""


@dataclass(frozen=True, slots=True)
class ImageAt:
    """An image as a request names it. `where` is its place in the request."""

    url: str
    detail: Detail
    where: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A message whose images have not been looked at yet."""

    role: Role
    parts: tuple[TextPart | ImageAt, ...]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked. None: the model's own."""

    model: str
    turns: tuple[Turn, ...]
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    top_k: int | None = None
    repetition_penalty: float | None = None

    @property
    def images(self) -> list[ImageAt]:
        return [part for turn in self.turns for part in turn.parts if isinstance(part, ImageAt)]

    def settings(self, defaults: Defaults) -> GenerationSettings:
        """The engine's settings, with a model's own where the request has none; the finest detail of its images."""
        given = {one.detail for one in self.images}
        finest: tuple[Detail, ...] = ("high", "auto", "low")
        detail: Detail = next((one for one in finest if one in given), "auto")
        return GenerationSettings(
            max_new_tokens=defaults.max_new_tokens if self.max_tokens is None else self.max_tokens,
            temperature=defaults.temperature if self.temperature is None else float(self.temperature),
            # OpenAI's 0 is the likeliest word alone, which is what the smallest value here leaves, too.
            top_p=defaults.top_p if self.top_p is None else max(float(self.top_p), SETTING_RANGES["top_p"][0]),
            top_k=defaults.top_k if self.top_k is None else self.top_k,
            repetition_penalty=defaults.repetition_penalty
            if self.repetition_penalty is None
            else self.repetition_penalty,
            seed=None if self.seed is None else self.seed % 2**32,
            detail=detail,
        ).checked()


def read_request(body: Any) -> ChatRequest:
    """The request in a parsed body. Raises ApiError, which names the first field that is wrong."""
    fields = Fields(body)
    model = fields.need("model", "json.string")[:200]
    turns = _turns(fields.need("messages", "json.array"))
    stream = bool(fields.take("stream", "json.boolean"))
    options = fields.take("stream_options", "json.object")
    if options is not None and not stream:
        raise ApiError(400, "api.stream_options_alone", "invalid_value", "stream_options")
    request = ChatRequest(
        model, turns, _length(fields), fields.between("temperature", 0, 2), fields.between("top_p", 0, 1),
        fields.between("seed", -(2**63), 2**64, "json.integer"), _stops(fields), stream, _include_usage(options or {}),
        fields.between("top_k", *SETTING_RANGES["top_k"], "json.integer"),
        fields.between("repetition_penalty", *SETTING_RANGES["repetition_penalty"]),
    )  # fmt: skip
    for name, neutral in NEUTRAL.items():
        fields.only(name, *neutral)
    fields.ignore(*LABELS)
    if turns[-1].role == "assistant":  # it is gone on with anyway
        fields.only("continue_final_message", True)
        fields.only("add_generation_prompt", False)
    fields.end()
    return request


def _length(fields: Fields) -> int | None:
    low, high = SETTING_RANGES["max_new_tokens"]
    old: int | None = fields.between("max_tokens", low, high, "json.integer")
    new: int | None = fields.between("max_completion_tokens", low, high, "json.integer")
    if old is not None and new is not None and old != new:
        raise ApiError(400, "api.two_lengths", "invalid_value", "max_tokens")
    return old if new is None else new


def _include_usage(options: dict[str, Any]) -> bool:
    fields = Fields(options, "stream_options")
    include = bool(fields.take("include_usage", "json.boolean"))
    fields.ignore("include_obfuscation")
    fields.end()
    return include


def _stops(fields: Fields) -> tuple[str, ...]:
    given = fields.take("stop", "json.string", "json.array")
    stops = [given] if isinstance(given, str) else given or []
    if len(stops) > MOST_STOPS:
        raise ApiError(400, "api.too_many_stops", "invalid_value", "stop", limit=MOST_STOPS)
    for n, one in enumerate(stops):
        if not typed(one, "json.string", f"stop[{n}]"):
            raise ApiError(400, "api.empty_stop", "invalid_value", "stop")
    return tuple(stops)


def _turns(messages: list[Any]) -> tuple[Turn, ...]:
    if len(messages) > MOST_MESSAGES:
        raise ApiError(400, "api.too_many_messages", "array_above_max_length", "messages", limit=MOST_MESSAGES)
    turns = [_turn(Fields(one, f"messages[{n}]")) for n, one in enumerate(messages)]
    text = sum(len(part.text) for one in turns for part in one.parts if isinstance(part, TextPart))
    if text > MOST_TEXT:
        raise ApiError(400, "api.too_much_text", "context_length_exceeded", "messages", size=text, limit=MOST_TEXT)
    if not any(one.role == "user" for one in turns):
        raise ApiError(400, "api.no_question", "invalid_value", "messages")
    # Models take one system prompt, at the beginning.
    system = tuple(part for one in turns if one.role == "system" for part in one.parts)
    said = [one for one in turns if one.role != "system"]
    return (Turn("system", system), *said) if system else tuple(said)


def _turn(fields: Fields) -> Turn:
    name = fields.need("role", "json.string")
    if name not in ROLES:
        raise invalid(fields.path("role"), name, list(ROLES))
    role = ROLES[name]
    fields.ignore("name", "refusal", "annotations")
    for unsupported in ("tool_calls", "function_call", "audio", "tool_call_id"):
        fields.only(unsupported, [])
    types = ("json.string", "json.array")
    content = fields.take("content", *types) if role == "assistant" else fields.need("content", *types)
    fields.end()
    where = fields.path("content")
    if isinstance(content, list):
        return Turn(role, tuple(_part(Fields(one, f"{where}[{n}]"), role) for n, one in enumerate(content)))
    return Turn(role, (TextPart(_clean(content or "")),))


def _part(fields: Fields, role: Role) -> TextPart | ImageAt:
    kinds = ("text", "image_url") if role == "user" else ("text", "refusal") if role == "assistant" else ("text",)
    kind = fields.need("type", "json.string")
    if kind not in kinds:
        raise invalid(fields.path("type"), kind, kinds)
    fields.ignore("prompt_cache_breakpoint")
    if kind != "image_url":
        text = fields.need(kind, "json.string")
        fields.end()
        return TextPart(_clean(text))
    image = Fields(fields.need("image_url", "json.object"), fields.path("image_url"))
    url, detail = image.need("url", "json.string"), image.one_of("detail", list(DETAILS))
    image.end()
    fields.end()
    return ImageAt(url, DETAILS[detail or "auto"], fields.path("image_url"))


def _clean(text: str) -> str:
    """Without half characters, which JSON can spell and no tokenizer can read."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
