"""An engine that needs no model: scripted text, delays and faults. Behind `--fake`, and in tests.

It goes through the same door as the real ones, worker process and all. Without a script it says which images came
with the question and echoes it word by word; an answer that is gone on with goes on after its last word, and a fault
strikes it once. A script is a question like
`fake: words=300 delay=0.01 die=SIGKILL after=20`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engines.base import Emit, FinishReason, GenerationSettings, ImagePart, Message, Usage
from engines.errors import Cancelled, PromptTooLong

PREFIX = "fake:"
MARKDOWN = {
    0: "\n\n## ", 4: "\n\n", 9: "a < b & c, ", 12: "**", 13: "** ", 15: "\n- ", 20: "\n- ", 24: "$a_n<n^2$ ",
    26: "\n\n$$\\sum_n$$\n\n", 30: "\n\n```python\nif a < ", 35: "\n    b = ", 45: "\n```\n\nFor $5, `x<y` ",
}  # fmt: skip
"""What stands before some of each 50 words."""
ANSWERED = "answered: words, the time of the first, the time of the last:"


@dataclass(frozen=True, slots=True)
class Script:
    """What to do. Times in seconds; `after` counts words before a fault, `parallel` is for a load's script."""

    words: int = 0
    delay: float = 0.0
    prefill: float = 0.0
    after: int = 0
    parallel: int = 1
    die: str = ""
    hang: bool = False
    oom: bool = False
    error: bool = False
    eat: int = 0
    """Bytes to allocate before answering, to run out of memory for real."""
    say: str = ""
    markdown: bool = False
    """Whether the words are in headings, lists, code and formulas, and not just one after the other."""

    @classmethod
    def of(cls, question: str, images: Sequence[ImagePart] = ()) -> Script:
        """The script in a question; an unknown word of it is ignored, as in any question."""
        if not question.startswith(PREFIX):
            return cls(say=_seen(images) + question)
        values: dict[str, object] = {}
        kinds = {
            "words": int,
            "after": int,
            "parallel": int,
            "eat": int,
            "delay": float,
            "prefill": float,
            "die": str,
            "say": str,
        }
        for word in question.removeprefix(PREFIX).split():
            name, _, value = word.partition("=")
            if name in kinds:
                values[name] = kinds[name](value)
            elif name in ("hang", "oom", "error", "markdown"):
                values[name] = True
        return cls(**values)  # type: ignore[arg-type]

    def text(self) -> list[str]:
        if not self.words:
            return [f"{one} " for one in self.say.split(" ")]
        before = MARKDOWN if self.markdown else {}
        return [f"{before.get(n % 50, '')}word{n} " for n in range(self.words)]


class FakeEngine:
    """One scripted engine. `load` is its script for loading: delays and faults, as for an answer."""

    def __init__(self, stage: Callable[[str], None] = lambda name: None, load: Script = Script(), context: int = 8192):
        self._context, self.parallel = context, load.parallel
        stage("weights")
        _misbehave(load, lambda text: None)
        time.sleep(load.prefill)

    def generate(self, messages: Sequence[Message], settings: GenerationSettings, emit: Emit) -> Usage:
        """See engines.base.Engine. Words stand for tokens."""
        settings.checked()
        started = time.monotonic()
        prompt = self.count_tokens(messages)
        if prompt > self._context:
            raise PromptTooLong(tokens=prompt, limit=self._context)
        *_, question = (one for one in messages if one.role == "user")
        said = messages[-1].text if messages[-1].role == "assistant" else ""
        script = Script.of(question.text, question.images)
        words = script.text()
        words = words[len(said.split(" ")) - 1 :] if said else words
        new, first = 0, 0.0
        reason: FinishReason = "length" if len(words) > settings.max_new_tokens else "stop"
        try:
            _wait(script.prefill, emit)
            due = time.monotonic()
            for word in words[: settings.max_new_tokens]:
                if new == script.after and not said:
                    _misbehave(script, emit)
                due += script.delay
                time.sleep(max(0.0, due - time.monotonic()))  # as fast as was asked for, however late a sleep ends
                emit(word)
                new += 1
                first = first or time.monotonic() - started
        except Cancelled:
            reason = "cancelled"
        seconds = time.monotonic() - started
        # To stderr, which is the engines' log: for benchmarks that measure what comes after the engine.
        print(f"{ANSWERED} {new} {time.time() - seconds + first:.4f} {time.time():.4f}", file=sys.stderr, flush=True)
        return Usage(prompt, 0, new, first, seconds, reason, self._context, prompt_limit=self._context)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(one.text.split()) for one in messages)

    def memory(self) -> int:
        return 0

    def close(self) -> None: ...


def _seen(images: Sequence[ImagePart]) -> str:
    """What the worker itself finds in the images' files."""
    if not images:
        return ""
    from PIL import Image

    sizes = []
    for one in images:
        with Image.open(one.path) as image:
            sizes.append(f"{image.width}x{image.height}")
    return f"{len(sizes)} {'image' if len(sizes) == 1 else 'images'}: {', '.join(sizes)}. "


def _wait(seconds: float, emit: Emit) -> None:
    """A prefill: long, but one that can be cancelled and shows that it lives."""
    end = time.monotonic() + seconds
    emit("")
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))
        emit("")


def _misbehave(script: Script, emit: Emit) -> None:
    if script.die:
        os.kill(os.getpid(), signal.Signals[script.die])
    if script.hang:
        time.sleep(3600)
    if script.oom:
        raise MemoryError
    if script.eat:
        bytearray(script.eat)
    if script.error:
        raise RuntimeError("the script asked for it")
