"""The models tab, and the line above a chat that says how its model is. Nothing here loads or plans by itself.

A timer redraws what may have changed while something is under way, and now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from configs.schema import ModelKind
from interface import memory, sources
from interface.cards import PRESSED, CardEvents
from interface.chat import ChatTab, Talk
from interface.desk import QUIET, Desk, label
from interface.offers import Offers
from interface.settings import choices
from interface.shelf import Shelf

BUSY_TICK = 1.0
IDLE_TICK = 5.0
"""Seconds: models are also loaded from other pages, and unloaded when nobody asks, and other programs take memory."""


@dataclass(frozen=True, slots=True)
class ModelsTab:
    """The tab's parts; `listed` names the models that a page knows."""

    memory: memory.MemoryPanel
    source: sources.SourceParts
    line: gr.HTML
    cards: gr.HTML
    adding: sources.AddParts
    timer: gr.Timer
    listed: gr.State


class ModelEvents:
    """What the chat tab's head shows, and what every page must know of the list. It keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._shelf = desk, Shelf(desk)
        self._offers, self._cards = Offers(desk), CardEvents(desk)

    def refresh(self, request: gr.Request, model: str) -> list[Any]:
        """-> the chat's state line, its offer, the offer's three buttons, what is listed, the timer."""
        lang, busy = self._desk.lang(request), self._shelf.busy  # asked first: what ends from here on is still shown
        model = self._shelf.known(model, "text")
        tick = gr.Timer(BUSY_TICK if busy else IDLE_TICK)
        return [self._shelf.how(model, lang), *self._offers.shown(model, lang), self._cards.listed(), tick]

    def offered(self, chosen: str) -> tuple[Any, ...]:
        """-> model, *its settings."""
        return self._offers.take(self._shelf.known(chosen, "text"))

    def swap(self, chosen: str) -> None:
        self._offers.swap(self._shelf.known(chosen, "text"))

    def dismiss(self) -> None:
        """The first run's card does not come back."""
        self._desk.library.preferred.change(welcomed=True)

    def pickers(self, text: str, vision: str) -> list[Any]:
        """-> both tabs' pickers, with the list as it is now."""
        kinds: tuple[ModelKind, ...] = ("text", "vision")
        catalogue, shown = self._desk.library.catalogue, []
        for kind, model in zip(kinds, (text, vision), strict=True):
            here = self._shelf.known(model, kind)
            chosen = {} if here == model else {"value": here}  # a conversation may be opening with another meanwhile
            shown.append(gr.update(choices=choices(self._desk, kind, catalogue[here]), **chosen))
        return shown


def build(desk: Desk) -> ModelsTab:
    """Draws the tab: memory, a card for each model, a box that adds one, and where models come from."""
    gr.Markdown(label("models.intro"))  # type: ignore[arg-type]
    timer, listed = gr.Timer(BUSY_TICK, render=False), gr.State(CardEvents(desk).listed())
    panel = memory.build(desk)
    line, shelf = gr.HTML(elem_id="disk-line"), gr.HTML(elem_id="cards", js_on_load=PRESSED)
    adding = sources.build_add()
    return ModelsTab(panel, sources.build_source(), line, shelf, adding, timer, listed)


def wire(
    desk: Desk,
    tab: ModelsTab,
    chat: ChatTab,
    images: Talk,
    models_tab: gr.Tab,
    others: list[gr.Tab],
    demo: gr.Blocks,
    from_address: str,
) -> None:
    """Connects the tab, the chat's head and the timer that keeps both fresh.

    `from_address` is JavaScript for the name of the tab that a page opens with.
    """
    events = ModelEvents(desk)
    for timer in (tab.timer, tab.memory.timer):
        timer.render()  # outside of the tab, whose parts are not there before it was opened
    shown = [chat.state, chat.offer, chat.take_offer, chat.swap, chat.dismiss, tab.listed, tab.timer]

    def refreshed(event: Any) -> None:
        event.then(events.refresh, [chat.model], shown, **QUIET)

    chat.redraw.append(refreshed)
    for looked in (tab.timer.tick, chat.settled, chat.model.change, *(one.select for one in (models_tab, *others))):
        looked(events.refresh, [chat.model], shown, **QUIET)
    refreshed(chat.take_offer.click(events.offered, [chat.model], [chat.model, *chat.settings], **QUIET))
    refreshed(chat.swap.click(events.swap, [chat.model], None, **QUIET))
    refreshed(chat.dismiss.click(events.dismiss, None, None, **QUIET))
    refreshed(sources.wire(desk, tab.source, tab.adding, demo))
    _wire_cards(desk, tab, refreshed, models_tab)
    memory.wire(desk, tab.memory, models_tab, others, tab.listed)
    named = gr.Textbox(visible=False)
    demo.load(lambda name: gr.Timer(active=name == models_tab.id), named, tab.memory.timer, js=from_address, **QUIET)
    pickers = [chat.model, images.model]
    tab.listed.change(events.pickers, pickers, pickers, **QUIET)


def _wire_cards(desk: Desk, tab: ModelsTab, refreshed: Callable[[Any], None], models_tab: gr.Tab) -> None:
    events, shown = CardEvents(desk), [tab.line, tab.cards]
    for looked in (tab.timer.tick, models_tab.select, tab.listed.change):
        looked(events.cards, None, shown, **QUIET)
    refreshed(tab.cards.click(events.press, None, shown, **QUIET))
