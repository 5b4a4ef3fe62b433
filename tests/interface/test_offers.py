"""What is offered where not everything fits: the panel's buttons, and the vision model's own language part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from configs.load import load_catalogue, load_config
from engines.library import Library
from engines.memory import GIB, DeviceMemory, MemoryPlan, OtherProgram, Resident
from engines.planner import plan_load
from interface.desk import Desk
from interface.i18n import LANGS, Lang
from interface.offers import Offers, language_part
from interface.panel import BUTTONS, REMEDIES, PanelEvents
from interface.plans import plan_html
from interface.shelf import Shelf
from interface.vision_events import VisionEvents

DEMO = "smollm2-135m-instruct"
TEXT, VISION, AWQ = "internlm2-chat-1_8b", "internvl2-2b", "internvl2-2b-awq"


class SmallCard(Library):
    """The scripted engine beside a card of which so much is free."""

    free = 7 * GIB
    others: tuple[OtherProgram, ...] = ()
    seconds: dict[str, float] = {}  # noqa: RUF012

    def plan(self, model: str, resident: Any = (), device: Any = None, *wishes: Any, **others: Any) -> Any:
        held = sum(one.bytes for one in resident)
        card = DeviceMemory("card", "cuda", 8 * GIB, self.free - held, 32 * GIB, 32 * GIB, self.others)
        return super().plan(model, resident, card, *wishes, **others)

    def load_seconds(self, model: str) -> float | None:
        return self.seconds.get(model)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk.open(SmallCard(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True))
    # What the scripted engine says it holds is nothing; a real one holds gigabytes.
    monkeypatch.setattr(
        Shelf, "residents", lambda self: [Resident(VISION, 5 * GIB)] if self.state(VISION) == "loaded" else []
    )
    yield desk
    desk.close()


def load(desk: Desk, model: str) -> None:
    desk.loads.load(model).result()


def card(desk: Desk) -> SmallCard:
    return cast(SmallCard, desk.library)


def test_the_language_part_is_found_by_its_geometry() -> None:
    catalogue = load_catalogue()
    for vision in (VISION, AWQ):
        assert getattr(language_part(catalogue[vision], catalogue), "id", None) == TEXT


def test_where_both_fit_nothing_is_offered(desk: Desk) -> None:
    load(desk, VISION)
    card(desk).free = 20 * GIB
    assert Offers(desk).of(TEXT) is None


@pytest.mark.parametrize("lang", LANGS)
def test_the_loaded_vision_model_is_offered_or_the_swap_with_what_each_costs(desk: Desk, lang: Lang) -> None:
    assert Offers(desk).of(TEXT) is None
    load(desk, VISION)
    offer = Offers(desk).of(TEXT)
    assert offer and offer.model and offer.model.id == VISION and offer.stands_in and offer.swap
    card(desk).seconds = {}
    unknown = Offers(desk).shown(TEXT, lang)[0]["value"]
    card(desk).seconds = {TEXT: 12.5, VISION: 20.0}
    body, answer, swap, dismiss = Offers(desk).shown(TEXT, lang)
    assert "InternVL2-2B" in body["value"] and "InternLM2-Chat-1.8B" in body["value"]
    assert "12.5" in body["value"] and "20.0" in body["value"] and "12.5" not in unknown
    assert answer["visible"] and swap["visible"] and not dismiss["visible"]


@pytest.mark.parametrize("lang", LANGS)
def test_the_first_runs_card_says_what_is_here_and_how_long_it_takes_until_it_is_dismissed(
    desk: Desk, lang: Lang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.library, "fake", False)
    told = Offers(desk).shown(DEMO, lang)
    body = told[0]["value"]
    assert "InternLM2-Chat-1.8B" in body and "3.5 GiB" in body and "10.0 MiB" in body
    assert told[1]["visible"] and told[3]["visible"] and not told[2]["visible"]
    desk.library.preferred.change(speed=20 * 2**20)
    assert "20.0 MiB" in Offers(desk).shown(DEMO, lang)[0]["value"]
    desk.library.preferred.change(welcomed=True)
    assert not any(one["visible"] for one in Offers(desk).shown(DEMO, lang))


def test_a_machine_on_which_nothing_larger_fits_is_told_so(desk: Desk) -> None:
    card(desk).free = GIB
    body, take, _, dismiss = Offers(desk).shown(DEMO, "en")
    assert "No larger model fits" in body["value"] and not take["visible"] and dismiss["visible"]
    assert Offers(desk).take(DEMO)[0] == gr.skip()


def test_answering_with_it_makes_it_the_conversations_model(desk: Desk) -> None:
    load(desk, VISION)
    picker, system, temperature, *rest = Offers(desk).take(TEXT)
    assert picker["value"] == VISION and VISION in [id for _, id in picker["choices"]]
    assert (system, temperature, len(rest)) == ("", 0.0, 4)
    assert Offers(desk).of(VISION) is None


def test_swapping_loads_the_chosen_one(desk: Desk) -> None:
    load(desk, VISION)
    Offers(desk).swap(TEXT)
    job = desk.loads.of(TEXT)
    assert job is not None and job.result() and Shelf(desk).state(TEXT) == "loaded"


def panel(desk: Desk, model: str) -> tuple[Any, Any, dict[str, bool], list[Any], list[Any]]:
    state, body, *rest = PanelEvents(desk, VisionEvents(desk)).refresh(cast(gr.Request, None), model)
    buttons = {name: one["visible"] for name, one in zip(BUTTONS, rest, strict=False)}
    remedies, actions = rest[len(BUTTONS) : len(BUTTONS) + REMEDIES], rest[len(BUTTONS) + REMEDIES]
    return state, body, buttons, remedies, actions


def test_a_refusals_remedies_are_buttons_and_it_can_be_loaded_anyway(desk: Desk) -> None:
    card(desk).free = int(1.5 * GIB)
    card(desk).others = (OtherProgram(7, "game", 6 * GIB),)
    _, body, buttons, remedies, actions = panel(desk, VISION)
    assert [name for name, visible in buttons.items() if visible] == ["anyway"]
    assert "Close game" in body["value"] and "Does not fit" in body["value"]
    assert all(what in ("use_model", "unload") for what, _ in actions)
    assert [one["visible"] for one in remedies] == [n < len(actions) for n in range(REMEDIES)]
    events = PanelEvents(desk, VisionEvents(desk))
    events.anyway(VISION)
    job = desk.loads.of(VISION)
    assert job is not None and job.force and job.result()


def test_a_remedys_button_switches_the_model_or_unloads_one(desk: Desk) -> None:
    load(desk, VISION)
    events = PanelEvents(desk, VisionEvents(desk))
    model, *settings = events.remedy(1, [("unload", VISION), ("use_model", AWQ)])
    assert model == AWQ and settings == list(VisionEvents(desk).usual(AWQ))
    events.remedy(0, [("unload", VISION)])
    job = desk.loads.of(VISION)
    assert job is not None and job.kind == "unload" and job.result()
    assert Shelf(desk).state(VISION) == "ready"


def plan(total: int, free: int) -> MemoryPlan:
    return plan_load(load_catalogue()[TEXT], DeviceMemory("card", "cuda", total, free, 32 * GIB, 32 * GIB))


@pytest.mark.parametrize("lang", LANGS)
def test_the_bar_is_the_whole_card_with_what_others_hold(lang: Lang) -> None:
    fits = plan_html(plan(8 * GIB, 6 * GIB), 0, GIB, lang)
    assert "1.0 GiB" in fits.split('class="key others"')[1].split("</span>")[0]
    assert "1.0 GiB" in fits.split('class="key beside"')[1].split("</span>")[0]
    assert 'class="end"' not in fits and "part free" in fits
    refused = plan_html(plan(4 * GIB, 2 * GIB), 0, 0, lang)
    assert 'class="end"' in refused and "part free" not in refused
