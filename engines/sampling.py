"""The next token's choice from its logits, on a CPU: the chain of transformers' `generate`, in numpy.

Repetition penalty, temperature, top-k, top-p, in that order (transformers 5.23, generation/logits_process.py and
`_get_logits_processor` in generation/utils.py). Without torch, whose import would double a small model's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engines.base import GenerationSettings

if TYPE_CHECKING:
    from numpy import ndarray

    Row = ndarray[Any, Any]

FIRST_LOOK = 512
"""So many of the likeliest tokens are put in order to find the top-p; the whole vocabulary only if they do not do."""


class Sampler:
    """Chooses the tokens of one answer. `seen` are the prompt's, which the repetition penalty counts, too."""

    def __init__(self, settings: GenerationSettings, seen: Sequence[int]) -> None:
        import numpy

        self._numpy, self._settings = numpy, settings
        self._random = numpy.random.default_rng(settings.seed)
        self._seen = list(dict.fromkeys(seen))
        self._known = set(seen)

    def __call__(self, logits: Row) -> int:
        """The token after these logits [vocabulary], of float32; they are written to."""
        if not self._settings.temperature > 0:
            token = int(self._penalized(logits).argmax())
        else:
            tokens, weights = self._candidates(logits)
            token = int(tokens[self._drawn(weights)])
        if token not in self._known:
            self._known.add(token)
            self._seen.append(token)
        return token

    def _penalized(self, logits: Row) -> Row:
        penalty = self._settings.repetition_penalty
        if penalty != 1.0:
            seen = logits[self._seen]
            logits[self._seen] = self._numpy.where(seen < 0, seen * penalty, seen / penalty)
        return logits

    def _candidates(self, logits: Row) -> tuple[Row, Row]:
        """The tokens that may come, the likeliest first where their order counts, and the weight of each."""
        numpy, settings = self._numpy, self._settings
        scores = self._penalized(logits) / numpy.float32(settings.temperature)
        tokens = None
        if 0 < settings.top_k < len(scores):
            tokens = self._best(scores, settings.top_k)
            scores = scores[tokens]
        weights = numpy.exp(scores - scores.max(), dtype=numpy.float64)
        if settings.top_p < 1.0:
            kept = self._nucleus(weights)
            tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
        return numpy.arange(len(weights)) if tokens is None else tokens, weights

    def _nucleus(self, weights: Row) -> Row:
        """The fewest of the heaviest entries whose share of the whole reaches top-p."""
        wanted = self._settings.top_p * weights.sum()
        for count in (FIRST_LOOK, len(weights)):
            order = self._best(weights, count)
            held = weights[order].cumsum()
            if held[-1] >= wanted or count >= len(weights):
                break
        return order[: int(self._numpy.searchsorted(held, wanted)) + 1]

    def _best(self, values: Row, count: int) -> Row:
        """The places of the `count` largest values, the largest first."""
        numpy = self._numpy
        some = numpy.argpartition(values, -count)[-count:] if count < len(values) else numpy.arange(len(values))
        return some[numpy.argsort(-values[some], kind="stable")]

    def _drawn(self, weights: Row) -> int:
        steps = weights.cumsum()
        return min(int(self._numpy.searchsorted(steps, self._random.random() * steps[-1], "right")), len(weights) - 1)
