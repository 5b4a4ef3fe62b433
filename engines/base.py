"""The values that cross the engine boundary, and the Engine protocol. Imports nothing heavy.

Values are pure: equal content, equal value. Identity (ids, rows, files' names) belongs to the store in interface/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from configs.schema import Defaults
from engines.errors import SettingOutOfRange

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]
Detail = Literal["auto", "low", "medium", "high"]

DETAIL_TILES: dict[Detail, int] = {"low": 1, "medium": 6, "high": 12}
"""Tiles that one image may be cut into; "auto" takes what the load's plan allows, and nothing takes more."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Some text of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image of a message. `path` is a file that the app wrote, never one a user named; sizes are in pixels."""

    sha256: str
    path: Path
    width: int
    height: int


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of one speaker."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        return cls(role, (TextPart(text),))

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How an answer is sampled. `temperature` 0 is greedy, `top_k` 0 is off, `seed` None differs every time."""

    max_new_tokens: int = 1024
    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    detail: Detail = "auto"

    @classmethod
    def of(cls, defaults: Defaults, seed: int | None = None) -> GenerationSettings:
        return cls(
            defaults.max_new_tokens,
            defaults.temperature,
            defaults.top_p,
            defaults.top_k,
            defaults.repetition_penalty,
            seed,
        )

    def checked(self) -> GenerationSettings:
        """Itself, if every setting is in its range. Raises SettingOutOfRange(name, value, low, high)."""
        for name, (low, high) in SETTING_RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingOutOfRange(name=name, value=value, low=low, high=high)
        return self


SETTING_RANGES: dict[str, tuple[float, float]] = {
    "max_new_tokens": (1, 32768),
    "temperature": (0.0, 2.0),
    "top_p": (0.01, 1.0),
    "top_k": (0, 1000),
    "repetition_penalty": (0.5, 2.0),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer took. Tokens, and seconds from the question's start in the engine.

    `cached_tokens` of the prompt came out of the KV cache of earlier turns; `turns_left_out` did not fit `context`, of
    which a prompt may take `prompt_limit`.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    first_token_s: float
    seconds: float
    reason: FinishReason
    context: int = 0
    turns_left_out: int = 0
    prompt_limit: int = 0
    estimated: bool = False
    """Whether a server did not say its count: then `new_tokens` are its pieces, and the prompt's are not known."""

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: the tokens after the first one over the time they took."""
        decoding = self.seconds - self.first_token_s
        return (self.new_tokens - 1) / decoding if self.new_tokens > 1 and decoding > 0 else 0.0


Emit = Callable[[str], None]
"""Delivers one piece of text, or with "" only a sign of life. Raises Cancelled when nobody wants more."""


class Engine(Protocol):
    """One loaded model. Lives in a worker process; `generate` is called from as many threads as `parallel` says."""

    @property
    def parallel(self) -> int:
        """Answers that it gives at once."""
        ...

    def generate(self, messages: Sequence[Message], settings: GenerationSettings, emit: Emit) -> Usage:
        """Answer the last message, piece by piece through `emit`; one of the assistant's own is gone on with.

        When `emit` raises Cancelled the answer ends there, and the Usage says so. Raises PromptTooLong and
        SettingOutOfRange before anything is computed.
        """
        ...

    def count_tokens(self, messages: Sequence[Message]) -> int | None:
        """Tokens that these messages take as a prompt, with nothing left out; None where only a server can tell."""
        ...

    def memory(self) -> int:
        """Bytes of the device that the engine holds; on a card, at its peak so far."""
        ...

    def close(self) -> None: ...
