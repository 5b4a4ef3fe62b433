"""The next token out of a row of logits, as transformers' chain of processors does it, in tensors of fixed shapes.

Nothing here asks the device for a value, so that a CUDA graph can hold all of it; what a person sets lies in tensors,
so that one graph serves every setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.base import GenerationSettings


class Chooser:
    """Repetition penalty, temperature, top-k and top-p over `vocab` tokens, and the draw. Call in inference mode."""

    def __init__(self, vocab: int, device: Any) -> None:
        import torch

        self._torch = torch
        self._seen = torch.zeros(vocab, dtype=torch.bool, device=device)
        self._penalty, self._temperature, self._removed = torch.ones(3, device=device).unbind()
        self._kth = torch.zeros(1, dtype=torch.int64, device=device)

    def prepare(self, ids: Sequence[int], settings: GenerationSettings) -> None:
        """For an answer to the prompt `ids`. The seed is for who draws: torch's own generator of the device."""
        vocab = len(self._seen)
        self._seen.zero_()
        self._seen.index_fill_(0, self._torch.tensor([*ids], device=self._seen.device), True)
        self._penalty.fill_(settings.repetition_penalty)
        self._temperature.fill_(settings.temperature or 1.0)
        # What lies in the tail of at most this probability goes; without top-p not even what has none.
        self._removed.fill_(1 - settings.top_p if settings.top_p < 1 else -1.0)
        self._kth.fill_(vocab - min(settings.top_k or vocab, vocab))

    def greedy(self, logits: Any) -> Any:
        """The likeliest token, [1], of logits [vocab]."""
        return self._mark(self._penalized(logits).argmax(0, keepdim=True))

    def drawn(self, logits: Any) -> Any:
        """A token, [1], drawn from what `candidates` leaves of logits [vocab]."""
        scores, tokens = self.candidates(logits)
        # As torch.multinomial does it: the largest of p / e is a draw from p, where e comes from an exponential one.
        odds = (scores - scores[-1:]).exp()  # p need not add up to 1, and a sum over the vocabulary takes its time
        best = (odds / self._torch.empty_like(odds).exponential_()).argmax(0, keepdim=True)
        return self._mark(tokens[best])

    def candidates(self, logits: Any) -> tuple[Any, Any]:
        """Scores [vocab] from the lowest, float32, what was filtered out at -inf; and whose they are, [vocab]."""
        scores, tokens = (self._penalized(logits) / self._temperature).sort()
        scores = scores.masked_fill(scores < scores[self._kth], float("-inf"))
        gone = scores.softmax(0).cumsum(0) <= self._removed
        gone[-1:] = False
        return scores.masked_fill(gone, float("-inf")), tokens

    def _penalized(self, logits: Any) -> Any:
        logits = logits.float()
        penalized = self._torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return self._torch.where(self._seen, penalized, logits)

    def _mark(self, token: Any) -> Any:
        self._seen.index_fill_(0, token, True)
        return token
