"""The sampler against transformers' own processors: the same distribution, for every combination of settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy
import pytest

from engines.base import GenerationSettings
from engines.sampling import FIRST_LOOK, Sampler

VOCABULARY = 4 * FIRST_LOOK
SEEN = [3, 5, 5, 8, 1000]


def row(seed: int, spread: float) -> numpy.ndarray:
    return (numpy.random.default_rng(seed).normal(size=VOCABULARY) * spread).astype(numpy.float32)


def ours(logits: numpy.ndarray, settings: GenerationSettings, seen: Sequence[int] = SEEN) -> numpy.ndarray:
    """The probability of each token that the sampler draws from."""
    tokens, weights = Sampler(settings, seen)._candidates(logits.copy())
    chances = numpy.zeros(len(logits))
    chances[tokens] = weights / weights.sum()
    return chances


def theirs(logits: numpy.ndarray, settings: GenerationSettings) -> numpy.ndarray:
    import torch
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    chain.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        chain.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        chain.append(TopPLogitsWarper(settings.top_p))
    scores = chain(torch.tensor([SEEN]), torch.from_numpy(logits.copy())[None])
    return scores.double().softmax(-1)[0].numpy()


CHAINS = [
    GenerationSettings(1, temperature, top_p, top_k, penalty)
    for temperature, top_p, top_k, penalty in itertools.product((0.2, 1.0, 2.0), (0.05, 0.8, 1.0), (0, 1, 40), (1, 1.3))
]


@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0], ids=["flat", "usual", "peaked"])
def test_the_distribution_is_that_of_transformers(spread: float) -> None:
    for number, settings in enumerate(CHAINS):
        logits = row(number, spread)
        found, expected = ours(logits, settings), theirs(logits, settings)
        # At a border of top-p one rounding may put a token in or out; no more than that.
        border = (found > 0) != (expected > 0)
        assert border.sum() <= 1 and expected[border].sum() + found[border].sum() < 2e-3, settings
        assert abs(found - expected)[~border].max() < 2e-3 * border.sum() + 1e-6, settings


def test_tokens_come_as_often_as_they_should() -> None:
    settings = GenerationSettings(1, 1.0, 0.9, 6, 1.0, seed=4)
    logits = row(1, 1.0)
    sampler = Sampler(settings, ())
    counts = numpy.bincount([sampler(logits.copy()) for _ in range(6000)], minlength=VOCABULARY)
    expected = ours(logits, settings, ()) * 6000
    assert set(counts.nonzero()[0]) == set(expected.nonzero()[0])
    drawn = expected > 0
    assert ((counts - expected)[drawn] ** 2 / expected[drawn]).sum() < 30  # chi-squared, five degrees of freedom


def test_greedy_takes_the_best_and_counts_what_it_took() -> None:
    logits = numpy.array([1.0, 3.0, 2.9, -1.0], numpy.float32)
    sampler = Sampler(GenerationSettings(1, 0.0, repetition_penalty=1.5), ())
    assert [sampler(logits.copy()) for _ in range(2)] == [1, 2]
    assert Sampler(GenerationSettings(1, 0.0), ())(logits.copy()) == 1


def test_a_seed_repeats_itself_and_none_does_not() -> None:
    def drawn(seed: int | None) -> list[int]:
        sampler = Sampler(GenerationSettings(1, 1.5, 1.0, seed=seed), ())
        return [sampler(row(2, 1.0)) for _ in range(12)]

    assert drawn(7) == drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)
