"""The models tab, and the line above a chat that says how its model is. Nothing here loads or plans by itself.

Cards are HTML drawn from what the shelf says at that moment; a timer redraws them while something is under way, and now
and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from configs.schema import ModelSpec
from interface.chat import ChatTab
from interface.desk import QUIET, Desk, label
from interface.i18n import Lang
from interface.offers import Offers
from interface.plans import card_html, plan_html, state_html
from interface.shelf import Buttons

BUSY_TICK = 1.0
IDLE_TICK = 5.0
"""Seconds: models are also loaded from other pages, and unloaded when nobody asks, and other programs take memory."""


@dataclass(frozen=True, slots=True)
class Card:
    """A model's components on the models tab."""

    model: str
    body: gr.HTML
    download: gr.Button
    cancel: gr.Button
    load: gr.Button
    unload: gr.Button

    @property
    def shown(self) -> list[Any]:
        return [self.body, self.download, self.cancel, self.load, self.unload]


class ModelEvents(Buttons):
    """What the models tab does. One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._offers = Offers(desk)

    def refresh(self, request: gr.Request, model: str) -> list[Any]:
        """-> every card's parts, then the chat's state line, its offer, the offer's two buttons, the timer."""
        lang, busy = self._desk.lang(request), self._shelf.busy  # asked first: what ends from here on is still shown
        views: list[Any] = []
        for spec in self._desk.library.catalogue.models:
            views += self._card(spec, lang)
        state = state_html(self._shelf.state(model), lang)
        return [*views, state, *self._offers.shown(model, lang), gr.Timer(BUSY_TICK if busy else IDLE_TICK)]

    def offered(self, chosen: str) -> tuple[Any, ...]:
        """-> model, *its settings."""
        return self._offers.take(chosen)

    def swap(self, chosen: str) -> None:
        self._offers.swap(chosen)

    # -- within -----------------------------------------------------------------------------------------------------

    def _card(self, spec: ModelSpec, lang: Lang) -> list[Any]:
        shelf, model = self._shelf, spec.id
        state = shelf.state(model)
        plan = plan_html(shelf.plan(spec), shelf.measured(model), shelf.beside(model), lang)
        return [
            card_html(spec, state, plan, shelf.news(model, lang), lang),
            gr.update(visible=state == "absent"),
            gr.update(visible=state == "downloading"),
            gr.update(visible=state == "ready"),
            gr.update(visible=state == "loaded"),
        ]


def build(desk: Desk) -> list[Card]:
    """Draws the tab: one card for each model."""
    gr.Markdown(label("models.intro"))  # type: ignore[arg-type]
    cards = []
    for spec in desk.library.catalogue.models:
        with gr.Column(elem_classes="card"):
            body = gr.HTML(elem_id=f"card-{spec.id}")
            with gr.Row(elem_classes="card-buttons"):
                buttons = [
                    gr.Button(label(f"models.{name}"), size="sm", visible=False, scale=0, min_width=110)
                    for name in ("download", "cancel", "load", "unload")
                ]
        cards.append(Card(spec.id, body, *buttons))
    return cards


def wire(desk: Desk, cards: list[Card], chat: ChatTab, tabs: list[gr.Tab]) -> None:
    """Connects the cards, the chat's head and the timer that keeps both fresh; `tabs` are those that show any of it."""
    events = ModelEvents(desk)
    timer = gr.Timer(BUSY_TICK)
    offer = [chat.offer, chat.take_offer, chat.swap]
    shown = [*(part for card in cards for part in card.shown), chat.state, *offer, timer]

    def refreshed(event: Any) -> None:
        event.then(events.refresh, [chat.model], shown, **QUIET)

    chat.redraw.append(refreshed)
    for settled in chat.settled:
        refreshed(settled)
    timer.tick(events.refresh, [chat.model], shown, **QUIET)
    chat.model.change(events.refresh, [chat.model], shown, **QUIET)
    for tab in tabs:
        tab.select(events.refresh, [chat.model], shown, **QUIET)
    refreshed(chat.take_offer.click(events.offered, [chat.model], [chat.model, *chat.settings], **QUIET))
    refreshed(chat.swap.click(events.swap, [chat.model], None, **QUIET))
    for card in cards:
        model = gr.State(card.model)
        refreshed(card.download.click(events.download, [model], None, **QUIET))
        refreshed(card.cancel.click(events.cancel, [model], None, **QUIET))
        refreshed(card.load.click(events.load, [model], None, **QUIET))
        refreshed(card.unload.click(events.unload, [model], None, **QUIET))
