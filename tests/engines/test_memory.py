"""The planner's answers over cards, free memory, neighbours and wishes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.load import load_catalogue
from configs.schema import ModelSpec
from engines.memory import (
    GIB,
    MIB,
    DeviceMemory,
    MemoryPlan,
    OtherProgram,
    Resident,
    Wishes,
)
from engines.need import choices
from engines.need_text import need_of, quantized_bytes
from engines.planner import plan_load

CATALOGUE = load_catalogue()
SMALL, LARGE = CATALOGUE["smollm2-135m-instruct"], CATALOGUE["internlm2-chat-1_8b"]


def card(free: float, total: float = 8, host: float = 32) -> DeviceMemory:
    return DeviceMemory("card", "cuda", int(total * GIB), int(free * GIB), int(host * GIB), int(host * GIB))


def host(free: float, total: float = 32) -> DeviceMemory:
    size = int(total * GIB), int(free * GIB)
    return DeviceMemory("CPU", "cpu", *size, *size)


# Weights are 3.52 GiB in bfloat16, and 96 KiB a token of context; with everything 5.14 GiB at 8192 tokens.
TABLE = [
    # (total, free) of the card, loaded beside it in GiB, verdict, context
    (24, 23.0, 0, "load", 8192),
    (12, 11.5, 0, "load", 8192),
    (10, 9.78, 0, "load", 8192),
    (8, 8.0, 0, "load", 8192),
    (7.8, 7.8, 0, "load", 8192),
    (7.76, 7.2, 0, "load", 8192),
    (8, 5.4, 0, "load", 8192),
    (8, 5.3, 0, "load", 4096),
    (8, 5.1, 0, "load", 4096),
    (8, 5.0, 0, "load", 4096),
    (8, 4.8, 0, "load", 2048),
    (8, 4.7, 0, "load", 1024),
    (8, 4.6, 0, "refuse", 1024),
    (8, 4.4, 0, "refuse", 1024),
    (8, 4.0, 0, "refuse", 1024),
    (6, 5.7, 0, "load", 8192),
    (6, 4.9, 0, "load", 2048),
    (5.79, 4.2, 0, "refuse", 1024),
    (4, 3.9, 0, "refuse", 1024),
    (2, 1.9, 0, "refuse", 1024),
    (8, 3.0, 4.5, "unload_first", 8192),
    (8, 3.0, 2.0, "unload_first", 4096),
    (8, 4.5, 1.0, "unload_first", 8192),
    (8, 5.0, 2.0, "load", 4096),
    (8, 4.8, 2.0, "unload_first", 8192),
    (8, 2.0, 2.0, "refuse", 1024),
    (24, 18.0, 5.0, "load", 8192),
]


@pytest.mark.parametrize(("total", "free", "beside", "verdict", "context"), TABLE)
def test_internlm2_whole_on_a_card(total: float, free: float, beside: float, verdict: str, context: int) -> None:
    answers_alike(LARGE, total, free, beside, verdict, context, 0, Wishes(weights="full"))


# With weights of 4 bits 1.36 GiB of them, and with graphs 3.26 GiB in all at 8192 tokens, 2.86 at 4096.
TIGHT = [
    # the same, and the bits of a weight, 0 where it is whole
    (24, 23.0, 0, "load", 8192, 0),
    (8, 5.4, 0, "load", 8192, 0),
    (8, 5.0, 0, "load", 4096, 0),
    (8, 4.8, 0, "load", 8192, 4),
    (6, 5.7, 0, "load", 8192, 0),
    (5.79, 4.2, 0, "load", 8192, 4),
    (4, 3.9, 0, "load", 8192, 4),
    (4, 3.0, 0, "load", 4096, 4),
    (4, 2.8, 0, "load", 2048, 4),
    (4, 2.4, 0, "refuse", 1024, 4),
    (2, 1.9, 0, "refuse", 1024, 4),
    # A neighbour stays if this one can be had with weights of 4 bits.
    (8, 4.5, 3.0, "load", 8192, 4),
    (8, 3.0, 4.5, "load", 4096, 4),
    (8, 2.8, 4.5, "unload_first", 8192, 0),
    (8, 2.0, 2.0, "unload_first", 8192, 4),
    (4, 1.0, 1.0, "refuse", 1024, 4),
]


@pytest.mark.parametrize(("total", "free", "beside", "verdict", "context", "bits"), TIGHT)
def test_internlm2_on_a_card(total: float, free: float, beside: float, verdict: str, context: int, bits: int) -> None:
    plan = answers_alike(LARGE, total, free, beside, verdict, context, bits, Wishes())
    assert ("weights_rounded" in codes(plan)) == (bits > 0 and verdict != "refuse")


def answers_alike(
    spec: ModelSpec, total: float, free: float, beside: float, verdict: str, context: int, bits: int, wishes: Wishes
) -> MemoryPlan:
    resident = [Resident("other", int(beside * GIB))] if beside else []
    plan = plan_load(spec, card(free, total), resident, wishes)
    assert (plan.verdict, plan.settings.context, plan.settings.weight_bits) == (verdict, context, bits)
    assert plan.settings.device == "cuda" and plan.settings.dtype == "bfloat16"
    if verdict == "load":
        assert plan.need.total + 256 * MIB <= free * GIB and plan.evict == ()
    elif verdict == "unload_first":
        assert plan.evict == ("other",) and plan.need.total <= (free + beside) * GIB
    else:
        assert plan.reasons and plan.need.total + 256 * MIB > (free + beside) * GIB
    return plan


def test_weights_are_rounded_where_somebody_wants_that() -> None:
    plan = plan_load(LARGE, card(24, 24), wishes=Wishes(weights="quantized"))
    assert plan.settings.weight_bits == 4 and plan.settings.graphs and plan.settings.context == 8192
    assert codes(plan) == ["fits", "weights_as_asked"]
    assert plan_load(SMALL, card(8), wishes=Wishes(weights="quantized")).settings.weight_bits == 8
    assert plan_load(LARGE, host(16), wishes=Wishes(weights="full")).settings.backend == "transformers"
    unable = replace(LARGE, integer_bits=0)
    assert plan_load(unable, card(24, 24), wishes=Wishes(weights="quantized")).verdict == "load"
    assert plan_load(unable, card(4, 4)).verdict == "refuse"


def test_both_models_have_room_on_a_card_of_8_gib() -> None:
    """Whichever comes first: after one swap, at the latest, none needs to go again."""
    vision = CATALOGUE["internvl2-2b-awq"]
    seen = plan_load(vision, card(7.8))
    free = 7.8 - seen.need.total / GIB
    beside = plan_load(LARGE, card(free), [Resident(vision.id, seen.need.total)])
    assert beside.verdict == "load" and beside.settings.weight_bits == 4 and beside.settings.context >= 4096
    free = 7.8 - beside.need.total / GIB
    again = plan_load(vision, card(free), [Resident(LARGE.id, beside.need.total)])
    assert again.verdict == "load"


@pytest.mark.parametrize(
    ("free", "verdict", "context"),
    [(16, "load", 8192), (4.2, "load", 8192), (3.5, "load", 4096), (2.6, "load", 2048), (2.2, "refuse", 1024)],
)
def test_internlm2_on_the_cpu(free: float, verdict: str, context: int) -> None:
    """With weights of 4 bits, 1.3 GiB of them."""
    plan = plan_load(LARGE, host(free))
    assert (plan.verdict, plan.settings.context, plan.settings.device) == (verdict, context, "cpu")
    assert (plan.settings.backend, plan.settings.weight_bits) == ("onnxruntime", 4)


@pytest.mark.parametrize(
    ("free", "verdict", "context"), [(16, "load", 8192), (5.0, "load", 4096), (4.8, "load", 2048), (3, "refuse", 1024)]
)
@pytest.mark.parametrize("wishes", [Wishes(backend="native"), Wishes(without="onnxruntime")], ids=["asked", "broken"])
def test_internlm2_on_the_cpu_in_full(free: float, verdict: str, context: int, wishes: Wishes) -> None:
    """As it is published, where somebody wants that, or where onnxruntime failed."""
    plan = plan_load(LARGE, host(free), wishes=wishes)
    assert (plan.verdict, plan.settings.context) == (verdict, context)
    assert (plan.settings.backend, plan.settings.dtype) == ("transformers", "bfloat16")


def test_quantized_weights_are_counted_to_the_byte() -> None:
    """Four bits, a scale of four bytes and half a byte of zero point for each 32; eight of embedding and output."""
    outer = 2 * 92544 * 2048
    linear = 24 * (2048 * 128 * (2 * 16 + 2 * 8) + 3 * 2048 * 8192)
    assert quantized_bytes(LARGE) == linear // 32 * (16 + 4) + linear // 64 + outer // 32 * (32 + 4 + 1)


def test_the_parts_are_what_the_geometry_says() -> None:
    need = need_of(LARGE, "cuda", 4096)
    assert need.weights == 3_778_220_032 and need.kv_cache == 98_304 * 4096 and need.vision == 0
    assert need_of(LARGE, "cuda", 8192).kv_cache == 2 * need.kv_cache
    assert need.total == need.weights + need.kv_cache + need.workspace + need.context


def test_a_context_asked_for_is_not_quietly_changed() -> None:
    plan = plan_load(LARGE, card(5.1), wishes=Wishes(context=8192, weights="full"))
    assert plan.verdict == "refuse" and plan.need.total > 4.9 * GIB
    assert [note.code for note in plan.remedies] == ["context"] and plan.remedies[0].facts["context"] == 4096
    assert plan_load(LARGE, card(8), wishes=Wishes(context=16384)).settings.context == 16384
    assert plan_load(LARGE, card(24, 24), wishes=Wishes(context=10**6)).settings.context == LARGE.window


def test_a_reduced_context_is_said() -> None:
    assert codes(plan_load(LARGE, card(8))) == ["fits"]
    plan = plan_load(LARGE, card(5.0))
    assert codes(plan)[:2] == ["fits", "context_reduced"] and plan.reasons[1].facts == {"wanted": 8192, "context": 4096}


def test_graphs_take_what_the_context_leaves_and_never_make_a_plan_worse() -> None:
    _, with_graphs, without = choices(LARGE, "cuda", Wishes())[:3]
    assert with_graphs.settings.graphs and not without.settings.graphs
    assert with_graphs.settings.context == without.settings.context == 8192
    between = (without.need.total + with_graphs.need.total) // 2
    plan = plan_load(LARGE, card((between + 256 * MIB) / GIB))
    assert plan.settings == without.settings and codes(plan) == ["fits", "no_graphs"]
    plan = plan_load(LARGE, card((with_graphs.need.total + 256 * MIB) / GIB + 0.001))
    assert plan.settings == with_graphs.settings and codes(plan) == ["fits"]
    large = plan_load(LARGE, card(24, 24)).settings
    assert large == replace(with_graphs.settings, prefill_chunk=4096), "where memory is to spare"
    assert not any(one.settings.graphs for one in choices(LARGE, "cpu", Wishes()))


def test_after_a_failure_it_is_tried_without_graphs_and_with_less_than_that() -> None:
    all_of_them = choices(LARGE, "cuda", Wishes())
    assert len(all_of_them) > 3
    below = choices(LARGE, "cuda", Wishes(context=1024))[1].need.total
    whole, *rounded = choices(LARGE, "cuda", Wishes(context=1024, below=below))
    assert not whole.settings.graphs and not whole.settings.weight_bits, "where there is no smaller context"
    assert [(one.settings.graphs, one.settings.weight_bits) for one in rounded] == [(False, 4)]
    least = min(one.need.total for one in all_of_them)
    for failed in (one for one in all_of_them if one.need.total > least):
        after = choices(LARGE, "cuda", Wishes(below=failed.need.total))[0]
        assert not after.settings.graphs and after.need.total < failed.need.total
        same = after.settings.context == failed.settings.context and not after.settings.weight_bits
        assert not same or failed.settings.prefill_chunk > after.settings.prefill_chunk


def codes(plan: MemoryPlan) -> list[str]:
    return [note.code for note in plan.reasons]


def test_a_refusal_says_what_would_help() -> None:
    device = replace(card(2.4), others=(OtherProgram(1, "desktop", 300 * MIB), OtherProgram(2, "game", 3 * GIB)))
    plan = plan_load(LARGE, device, alternatives=CATALOGUE.models)
    assert plan.verdict == "refuse" and codes(plan) == ["short", "rounded_already"]
    assert {note.code: note.facts for note in plan.remedies} == {
        "close_program": {"name": "game", "bytes": 3 * GIB},
        "use_model": {"model": SMALL.id, "need": plan.remedies[1].facts["need"]},
    }


def test_a_model_larger_than_the_card_says_that() -> None:
    assert codes(plan_load(LARGE, card(1.9, 2))) == ["too_big", "rounded_already"]


def test_main_memory_counts_too() -> None:
    plan = plan_load(LARGE, card(8, host=1.5))
    assert plan.verdict == "refuse" and codes(plan) == ["host_short"]


def test_force_loads_with_the_smallest_settings_and_says_so() -> None:
    plan = plan_load(LARGE, card(2), wishes=Wishes(force=True))
    assert plan.verdict == "load" and plan.forced and codes(plan) == ["short", "rounded_already"]
    assert plan.need.total == min(one.need.total for one in choices(LARGE, "cuda", Wishes()))


def test_the_smallest_neighbour_that_helps_goes() -> None:
    resident = [Resident("big", 4 * GIB), Resident("small", 2 * GIB), Resident("tiny", GIB // 4)]
    whole = Wishes(weights="full")
    plan = plan_load(LARGE, card(3.3, 12), resident, whole)
    assert plan.verdict == "unload_first" and plan.evict == ("small",)
    assert plan_load(LARGE, card(1.0, 12), resident, whole).evict == ("big",)
    assert set(plan_load(LARGE, card(0.1, 12), resident, whole).evict) == {"big", "small"}
    assert plan_load(LARGE, card(1.0, 12), resident).evict == ("small",), "which is enough for rounded weights"


def test_a_model_is_no_neighbour_of_itself() -> None:
    plan = plan_load(LARGE, card(2.9), [Resident(LARGE.id, 5 * GIB)])
    assert plan.verdict == "load" and plan.evict == () and plan.settings.context == 8192
