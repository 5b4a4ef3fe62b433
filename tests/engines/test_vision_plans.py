"""The guard on image models: verdicts and settings over cards, free memory, neighbours, backends and wishes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.load import load_catalogue
from engines.memory import (
    GIB,
    MIB,
    DeviceMemory,
    Measured,
    MemoryPlan,
    OtherProgram,
    Resident,
    Wishes,
)
from engines.need import choices, kv_slab, look_seconds, prefill_of, weight_bytes
from engines.need_text import token_bytes
from engines.planner import plan_load

CATALOGUE = load_catalogue()
BF16, AWQ, TEXT = CATALOGUE["internvl2-2b"], CATALOGUE["internvl2-2b-awq"], CATALOGUE["internlm2-chat-1_8b"]
ALL = CATALOGUE.models


def card(total: float, free: float, *others: OtherProgram) -> DeviceMemory:
    return DeviceMemory("card", "cuda", int(total * GIB), int(free * GIB), 32 * GIB, 32 * GIB, others)


def codes(plan: MemoryPlan) -> list[str]:
    return [note.code for note in (*plan.reasons, *plan.remedies)]


TABLE = [
    # model, GiB of the card, free, held by a loaded text model, verdict, backend, context, tiles, KV bits
    (BF16, 24, 23.5, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 12, 11.5, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 10, 9.8, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 8, 8.0, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 7.80, 7.8, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 7.76, 7.6, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 7.76, 7.0, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 7.76, 6.5, 0, "load", "turbomind", 8064, 12, 16),
    (BF16, 8, 6.4, 0, "load", "turbomind", 6720, 12, 16),
    (BF16, 8, 6.3, 0, "load", "turbomind", 5376, 12, 16),
    (BF16, 8, 6.2, 0, "load", "turbomind", 4032, 12, 16),
    (BF16, 8, 6.0, 0, "load", "turbomind", 4480, 12, 8),
    (BF16, 8, 5.9, 0, "load", "turbomind", 2688, 6, 16),
    (BF16, 8, 5.75, 0, "load", "turbomind", 2560, 6, 8),
    (BF16, 8, 5.65, 0, "load", "turbomind", 1920, 3, 8),
    (BF16, 8, 5.0, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 8, 4.0, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 8, 2.0, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 7.4, 7.4, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 6, 6.0, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 6, 5.7, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 4, 3.9, 0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 8, 2.7, 5.1, "unload_first", "turbomind", 8064, 12, 16),
    (BF16, 8, 1.5, 4.7, "unload_first", "turbomind", 4032, 12, 16),
    (BF16, 8, 1.0, 4.0, "refuse", "pytorch", 1024, 1, 16),
    (BF16, 24, 18.0, 5.1, "load", "turbomind", 8064, 12, 16),
    (BF16, 12, 6.6, 5.1, "load", "turbomind", 8064, 12, 16),
    (BF16, 12, 5.9, 5.1, "unload_first", "turbomind", 8064, 12, 16),
    (AWQ, 24, 23.5, 0, "load", "turbomind", 8064, 12, 16),
    (AWQ, 12, 11.0, 0, "load", "turbomind", 8064, 12, 16),
    (AWQ, 8, 7.8, 0, "load", "turbomind", 8064, 12, 16),
    (AWQ, 6, 6.0, 0, "load", "turbomind", 8064, 12, 16),
    (AWQ, 6, 5.2, 0, "load", "turbomind", 8064, 12, 16),
    (AWQ, 6, 5.0, 0, "load", "turbomind", 6720, 12, 16),
    (AWQ, 6, 4.8, 0, "load", "turbomind", 4032, 12, 16),
    (AWQ, 6, 4.5, 0, "load", "pytorch", 6144, 12, 16),
    (AWQ, 6, 4.2, 0, "load", "pytorch", 4096, 12, 16),
    (AWQ, 4, 4.0, 0, "load", "pytorch", 4096, 6, 16),
    (AWQ, 4, 3.9, 0, "load", "pytorch", 4096, 6, 16),
    (AWQ, 4, 3.8, 0, "load", "pytorch", 2560, 6, 16),
    (AWQ, 4, 3.6, 0, "load", "pytorch", 1536, 3, 16),
    (AWQ, 4, 3.5, 0, "load", "pytorch", 1024, 1, 16),
    (AWQ, 4, 3.0, 0, "refuse", "pytorch", 1024, 1, 16),
    (AWQ, 2, 1.9, 0, "refuse", "pytorch", 1024, 1, 16),
    (AWQ, 8, 2.7, 5.1, "unload_first", "turbomind", 8064, 12, 16),
    (AWQ, 12, 6.6, 5.1, "load", "turbomind", 8064, 12, 16),
]


@pytest.mark.parametrize(("spec", "total", "free", "beside", "verdict", "backend", "context", "tiles", "bits"), TABLE)
def test_verdicts_and_settings(
    spec: object, total: float, free: float, beside: float, verdict: str, backend: str, context: int, tiles: int,
    bits: int,
) -> None:  # fmt: skip
    resident = [Resident(TEXT.id, int(beside * GIB))] if beside else []
    plan = plan_load(spec, card(total, free), resident, alternatives=ALL)  # type: ignore[arg-type]
    settings = plan.settings
    got = (plan.verdict, settings.backend, settings.context, settings.max_tiles, settings.kv_bits)
    assert got == (verdict, backend, context, tiles, bits)
    room = (free + beside) * GIB if verdict == "unload_first" else free * GIB
    if verdict != "refuse":
        assert plan.need.total + 256 * MIB <= room
        assert plan.evict == ((TEXT.id,) if verdict == "unload_first" else ())
        assert settings.prefill_chunk >= prefill_of(tiles) and settings.context > settings.prefill_chunk
    elif free >= 3.6:
        assert "use_model" in codes(plan), "a refusal names what would work"


def test_the_table_is_large_enough() -> None:
    assert len(TABLE) >= 40


@pytest.mark.parametrize("free", [5.2, 6.0, 7.0, 7.4])
def test_a_card_under_eight_takes_no_unquantized_model_and_is_told_what_it_takes(free: float) -> None:
    plan = plan_load(BF16, card(7.4, free), alternatives=ALL)
    assert plan.verdict == "refuse" and codes(plan) == ["card_too_small", "use_model"]
    assert plan.remedies[0].facts["model"] == AWQ.id and plan.remedies[0].facts["need"] < free * GIB
    forced = plan_load(BF16, card(7.4, 7.4), wishes=Wishes(force=True))
    assert forced.verdict == "load" and forced.forced and forced.settings.max_tiles == 12


def test_turbominds_cache_is_made_of_whole_slabs() -> None:
    """Sizes as LMDeploy's own log gives them: bf16 128 MiB with 21 blocks of 64 tokens, int8 and int4 32 MiB."""
    assert [kv_slab(token_bytes(BF16, bits) * 64) for bits in (16, 8, 4)] == [
        (128 * MIB, 21), (32 * MIB, 10), (32 * MIB, 20)
    ]  # fmt: skip
    for choice in choices(BF16, "cuda", Wishes(backends=("turbomind",))):
        settings = choice.settings
        slab, blocks = kv_slab(token_bytes(BF16, settings.kv_bits) * 64)
        usable = (settings.kv_bytes - 32 * MIB) // slab * blocks * 64
        assert usable >= settings.max_batch * settings.context and usable > settings.prefill_chunk, (
            "its warm-up would wait for ever"
        )


def test_the_ratio_gives_the_cache_its_bytes_at_that_moment() -> None:
    plan = plan_load(BF16, card(8, 8.0))
    left = plan.device.free - plan.settings.before_kv
    assert plan.settings.kv_ratio(plan.device.free) * left == pytest.approx(plan.settings.kv_bytes)
    assert 0 < plan.settings.kv_ratio(plan.device.free) < 0.5 < plan.settings.kv_ratio(0) < 1


def test_weights_are_the_published_bytes() -> None:
    assert weight_bytes(BF16, 2) == 4_411_508_736
    assert weight_bytes(AWQ, 2) == pytest.approx(2_176_075_776, rel=0.01)


def test_the_backend_that_is_asked_for_is_taken() -> None:
    for backend in ("turbomind", "pytorch", "native"):
        plan = plan_load(BF16, card(12, 11), wishes=Wishes(backend=backend))  # type: ignore[arg-type]
        assert (plan.verdict, plan.settings.backend) == ("load", backend)
    without = plan_load(BF16, card(12, 11), wishes=Wishes(backends=("native",)))
    assert without.settings.backend == "native"
    refused = plan_load(AWQ, card(12, 11), wishes=Wishes(backend="native"), alternatives=ALL)
    assert refused.verdict == "refuse" and codes(refused) == ["no_backend", "use_model"]


def test_without_a_card_transformers_runs_it_and_says_how_long_it_takes() -> None:
    host = DeviceMemory("CPU", "cpu", 16 * GIB, 12 * GIB, 16 * GIB, 12 * GIB, cores=4)
    plan = plan_load(BF16, host, alternatives=ALL)
    assert (plan.verdict, plan.settings.backend, plan.settings.device) == ("load", "native", "cpu")
    (slow,) = (note for note in plan.reasons if note.code == "slow_on_cpu")
    assert slow.facts == {"one": look_seconds(BF16, 1, 4), "most": look_seconds(BF16, 12, 4)}
    assert slow.facts["most"] == pytest.approx(13 * slow.facts["one"])
    assert plan_load(AWQ, host, alternatives=ALL).remedies[0].facts["model"] == BF16.id


def test_a_context_asked_for_takes_as_many_tiles_as_leave_room() -> None:
    assert plan_load(BF16, card(24, 24), wishes=Wishes(context=16000)).settings.context >= 16000
    small = plan_load(BF16, card(24, 24), wishes=Wishes(context=2600)).settings
    assert small.context >= 2600 and small.max_tiles == 6


def test_a_program_whose_end_would_help_is_named() -> None:
    game = OtherProgram(7, "game", int(2.1 * GIB))
    plan = plan_load(BF16, card(8, 4.6, game), alternatives=ALL)
    assert plan.verdict == "refuse" and "close_program" in codes(plan)


def test_after_a_failure_the_next_smaller_settings_are_tried_and_none_in_the_end() -> None:
    device, needs = card(8, 8.0), []
    plan = plan_load(BF16, device)
    while plan.verdict == "load":
        needs.append(plan.need.total)
        plan = plan_load(BF16, device, wishes=Wishes(below=needs[-1]), alternatives=ALL)
    assert needs == sorted(needs, reverse=True) and len(needs) > 5
    assert plan.reasons[0].code == "no_smaller"


def test_what_was_measured_here_moves_the_next_plan() -> None:
    plan = plan_load(BF16, card(8, 6.1))
    assert plan.settings.kv_bits == 8
    held = plan.need.total - 300 * MIB
    seen = Measured(plan.need.total, held, plan.need.context - 300 * MIB, 5.0)
    better = plan_load(BF16, card(8, 6.1), wishes=Wishes(measured={"turbomind": seen}))
    assert better.settings.kv_bits == 16 and better.settings.context > plan.settings.prefill_chunk
    assert better.need.context == plan.need.context - 300 * MIB
    again = plan_load(BF16, card(8, 6.1), wishes=Wishes(measured={"turbomind": replace(seen, held=better.need.total)}))
    assert again.need == better.need, "a plan that was right is not moved again"
    elsewhere = plan_load(BF16, card(8, 6.1), wishes=Wishes(measured={"pytorch": seen}))
    assert elsewhere.settings == plan.settings


def test_what_another_program_took_meanwhile_does_not_count_for_good() -> None:
    plan = plan_load(BF16, card(8, 8.0))
    wild = Measured(plan.need.total, plan.need.total + 3 * GIB, plan.need.context + 3 * GIB, 5.0)
    again = plan_load(BF16, card(8, 8.0), wishes=Wishes(measured={"turbomind": wild}))
    assert again.need.context == plan.need.context * 5 // 4 and again.settings.backend == "turbomind"


def test_an_engine_that_failed_is_left_out_the_next_time() -> None:
    plan = plan_load(BF16, card(8, 8.0), wishes=Wishes(without="turbomind"))
    assert (plan.verdict, plan.settings.backend) == ("load", "pytorch")
    both = Wishes(without="turbomind", backend="turbomind")
    assert plan_load(BF16, card(8, 8.0), wishes=both).verdict == "refuse"


@pytest.mark.parametrize("context", [256, 800, 1100])
def test_a_small_usual_context_leaves_a_way_to_load(context: int) -> None:
    plan = plan_load(BF16, card(8, 8.0), wishes=Wishes(usual_context=context))
    assert (plan.verdict, plan.settings.backend, plan.settings.max_tiles) == ("load", "turbomind", 1)


@pytest.mark.parametrize("context", [600, 1500, 2600, 3840, 5000, 32768])
def test_a_context_asked_for_has_room_for_its_image_and_an_answer(context: int) -> None:
    for backend in ("turbomind", "pytorch", "native"):
        plan = plan_load(BF16, card(24, 24), wishes=Wishes(context=context, backend=backend))  # type: ignore[arg-type]
        settings = plan.settings
        assert settings.context <= BF16.window
        assert settings.max_tiles == 1 or prefill_of(settings.max_tiles) <= settings.context * 7 // 8


BATCHES = [
    # model, GiB free, held by a loaded text model, backend, answers at once, MiB
    (BF16, 24.0, 0, "turbomind", 4, 8708),
    (BF16, 15.0, 0, "turbomind", 4, 8708),
    (BF16, 14.0, 0, "turbomind", 2, 7156),
    (BF16, 13.2, 0, "turbomind", 1, 6380),
    (BF16, 12.0, 0, "turbomind", 1, 6380),
    (BF16, 8.0, 0, "turbomind", 1, 6380),
    (BF16, 7.5, 0, "turbomind", 1, 6380),
    (BF16, 7.0, 0, "turbomind", 1, 6380),
    (BF16, 6.0, 0, "turbomind", 1, 5836),
    (BF16, 18.0, 5.1, "turbomind", 4, 8708),
    (BF16, 12.9, 5.1, "turbomind", 1, 6380),
    (BF16, 24.0, 0, "pytorch", 4, 8927),
    (AWQ, 24.0, 0, "turbomind", 4, 7301),
    (AWQ, 12.0, 0, "turbomind", 2, 5749),
    (AWQ, 11.5, 0, "turbomind", 1, 4973),
    (AWQ, 8.0, 0, "turbomind", 1, 4973),
    (AWQ, 6.0, 0, "turbomind", 1, 4973),
    (AWQ, 5.0, 0, "turbomind", 1, 4845),
    (AWQ, 24.0, 0, "pytorch", 4, 6744),
    (AWQ, 12.0, 0, "pytorch", 2, 5160),
    (AWQ, 8.0, 0, "pytorch", 1, 4368),
    (AWQ, 4.0, 0, "pytorch", 1, 3720),
]


@pytest.mark.parametrize(("spec", "free", "beside", "backend", "answers", "planned"), BATCHES)
def test_several_answers_at_once_are_for_memory_that_nothing_else_needs(
    spec: object, free: float, beside: float, backend: str, answers: int, planned: int
) -> None:
    resident = [Resident(TEXT.id, int(beside * GIB))] if beside else []
    plan = plan_load(spec, card(max(8, free + beside), free), resident, Wishes(backend=backend))  # type: ignore[arg-type]
    assert (plan.verdict, plan.settings.max_batch, plan.need.total // MIB) == ("load", answers, planned)
    assert ("batch" in codes(plan)) == (answers > 1)
    if answers > 1:
        best = plan_load(spec, card(max(8, free), free), wishes=Wishes(backend=backend, max_batch=1))  # type: ignore[arg-type]
        one, several = best.settings, plan.settings
        assert replace(several, max_batch=1, kv_bytes=one.kv_bytes) == one, "each as good as the only one"
        assert plan.need.total + 6 * GIB < free * GIB


SEEN = [
    # model, context, tiles, answers at once, MiB that were held on an H200 (docs/gpu-verification.md)
    (BF16, 8192, 12, 1, 6550),
    (BF16, 2560, 6, 1, 5770),
    (BF16, 8192, 12, 4, 8856),
    (AWQ, 8192, 12, 1, 4366),
    (AWQ, 4096, 12, 1, 3982),
    (AWQ, 8192, 12, 2, 5134),
    (AWQ, 8192, 12, 4, 6672),
]


@pytest.mark.parametrize(("spec", "context", "tiles", "answers", "held"), SEEN)
def test_the_pytorch_engine_is_planned_as_it_was_seen(
    spec: object, context: int, tiles: int, answers: int, held: int
) -> None:
    ways = choices(spec, "cuda", Wishes(backend="pytorch", backends=("pytorch",)))  # type: ignore[arg-type]
    (need,) = (
        one.need.total
        for one in ways
        if (one.settings.context, one.settings.max_tiles, one.settings.max_batch) == (context, tiles, answers)
    )
    assert held * MIB <= need <= 1.02 * held * MIB


def test_a_batch_never_sends_a_neighbour_away() -> None:
    for free in range(1, 24):
        resident = [Resident(TEXT.id, int(5.1 * GIB))]
        plan = plan_load(BF16, card(30, free), resident)
        alone = plan_load(BF16, card(30, free), resident, Wishes(max_batch=1))
        assert (plan.verdict, plan.evict) == (alone.verdict, alone.evict)


def test_a_batch_that_failed_is_tried_again_with_a_smaller_one() -> None:
    device = card(24, 24)
    plan = plan_load(BF16, device)
    again = plan_load(BF16, device, wishes=Wishes(below=plan.need.total))
    assert (plan.settings.max_batch, again.settings.max_batch) == (4, 2)


def test_native_answers_one_at_a_time() -> None:
    assert {one.settings.max_batch for one in choices(BF16, "cuda", Wishes(backend="native"))} == {1}
