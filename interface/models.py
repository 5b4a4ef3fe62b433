"""The models tab, and the line above a chat that says how its model is. Nothing here loads or plans by itself.

Cards are HTML drawn from what the library, the runner and the downloads say at that moment; a timer redraws them while
something is under way, and now and then.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from configs.schema import ModelSpec
from engines.acquire import Progress
from engines.memory import MemoryPlan, Resident
from interface.chat import ChatTab
from interface.chat_events import usual_settings
from interface.desk import QUIET, Desk, label
from interface.i18n import Lang, bytes_text, t
from interface.messages import explain, plan_notes, progress_text, sentences
from interface.render import notice_html

State = Literal["absent", "downloading", "ready", "loading", "loaded"]
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


class ModelEvents:
    """What the models tab does. One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def refresh(self, request: gr.Request, model: str) -> list[Any]:
        """-> every card's parts, then the chat's state line, its offer, the offer's button, the timer."""
        lang = self._desk.lang(request)
        views: list[Any] = []
        for spec in self._desk.library.catalogue.models:
            views += self._card(spec, lang)
        return [*views, *self._chat_head(model, lang), gr.Timer(BUSY_TICK if self._busy() else IDLE_TICK)]

    def download(self, model: str) -> None:
        self._desk.downloads.start(model)

    def cancel(self, model: str) -> None:
        self._desk.downloads.cancel(model)

    def load(self, model: str) -> None:
        """Starts loading, if the guard and the queue allow; the card tells the rest."""
        self._desk.loads.load(model)

    def unload(self, model: str) -> None:
        self._desk.loads.unload(model)

    def offered(self, chosen: str) -> tuple[Any, ...]:
        """-> model, *its settings: the offered one if it is here; if not, its download begins."""
        offered = self._offered(chosen)
        if offered is not None and self._desk.library.folder(offered.id) is not None:
            return offered.id, *usual_settings(offered)
        if offered is not None:
            self._desk.downloads.start(offered.id)
        return (gr.skip(),) * 7

    # -- within -----------------------------------------------------------------------------------------------------

    def _state(self, model: str) -> State:
        status = self._desk.runner.status()
        download = self._desk.downloads.of(model)
        if download is not None and download.running:
            return "downloading"
        if any(one.model == model for one in status.engaged):
            return "loaded"
        if status.loading == model or self._desk.loads.loading(model):
            return "loading"
        return "ready" if self._desk.library.folder(model) is not None else "absent"

    def _busy(self) -> bool:
        desk = self._desk
        return desk.downloads.running or desk.loads.running or desk.runner.status().loading is not None

    def _plan(self, spec: ModelSpec) -> MemoryPlan:
        resident = [Resident(one.model, one.memory, one.pid) for one in self._desk.runner.status().engaged]
        return self._desk.library.plan(spec.id, resident)

    def _card(self, spec: ModelSpec, lang: Lang) -> list[Any]:
        state = self._state(spec.id)
        return [
            card_html(spec, state, self._plan(spec), self._measured(spec.id), self._news(spec.id, lang), lang),
            gr.update(visible=state == "absent"),
            gr.update(visible=state == "downloading"),
            gr.update(visible=state == "ready"),
            gr.update(visible=state == "loaded"),
        ]

    def _measured(self, model: str) -> int:
        return next((one.memory for one in self._desk.runner.status().engaged if one.model == model), 0)

    def _news(self, model: str, lang: Lang) -> str:
        """How its download goes; or how that, or loading it, ended, if not well."""
        download = self._desk.downloads.of(model)
        if download is not None and download.running:
            return progress_html(download.progress, lang)
        error = self._desk.loads.error(model) or (download.error if download else None)
        return "" if error is None or self._state(model) == "loaded" else notice_html(explain(error, lang))

    def _offered(self, chosen: str) -> ModelSpec | None:
        """What to offer someone who talks to a demo model: the first real one that fits here."""
        if not self._desk.library.spec(chosen).demo:
            return None
        real = (spec for spec in self._desk.library.catalogue.models if not spec.demo)
        return next((spec for spec in real if self._plan(spec).verdict != "refuse"), None)

    def _chat_head(self, model: str, lang: Lang) -> list[Any]:
        state = self._state(model)
        offered = self._offered(model)
        if offered is None:
            return [state_html(state, lang), gr.update(visible=False), gr.update(visible=False)]
        offered_state = self._state(offered.id)
        body = offer_html(offered, self._plan(offered), self._news(offered.id, lang), lang)
        if offered_state == "absent":
            button = gr.update(
                visible=True, value=t("models.download_size", lang, title=offered.title, size=offered.download)
            )
        else:
            button = gr.update(visible=offered_state != "downloading", value=t("models.use", lang))
        return [state_html(state, lang), gr.update(visible=True, value=body), button]


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


def wire(desk: Desk, cards: list[Card], chat: ChatTab, tab: gr.Tab) -> None:
    """Connects the cards, the chat's head and the timer that keeps both fresh."""
    events = ModelEvents(desk)
    timer = gr.Timer(BUSY_TICK)
    shown = [part for card in cards for part in card.shown] + [chat.state, chat.offer, chat.take_offer, timer]

    def refreshed(event: Any) -> None:
        event.then(events.refresh, [chat.model], shown, **QUIET)

    for settled in chat.settled:
        refreshed(settled)
    timer.tick(events.refresh, [chat.model], shown, **QUIET)
    chat.model.change(events.refresh, [chat.model], shown, **QUIET)
    tab.select(events.refresh, [chat.model], shown, **QUIET)
    refreshed(chat.take_offer.click(events.offered, [chat.model], [chat.model, *chat.settings], **QUIET))
    for card in cards:
        model = gr.State(card.model)
        refreshed(card.download.click(events.download, [model], None, **QUIET))
        refreshed(card.cancel.click(events.cancel, [model], None, **QUIET))
        refreshed(card.load.click(events.load, [model], None, **QUIET))
        refreshed(card.unload.click(events.unload, [model], None, **QUIET))


# -- HTML -------------------------------------------------------------------------------------------------------------


def card_html(spec: ModelSpec, state: State, plan: MemoryPlan, measured: int, news: str, lang: Lang) -> str:
    """A model: what it is, how it is, and what the guard says of it here."""
    demo = f' <span class="badge">{t("models.demo", lang)}</span>' if spec.demo else ""
    facts = " · ".join(
        (
            t("models.disk", lang, disk=spec.disk),
            t("models.window", lang, window=spec.window),
            t("models.licence", lang, licence=spec.licence),
        )
    )
    return (
        f'<div class="card-head"><strong>{html.escape(spec.title)}</strong>{demo}{state_html(state, lang)}</div>'
        f'<div class="facts">{html.escape(facts)}</div>{plan_html(plan, measured, lang)}{news}'
    )


def plan_html(plan: MemoryPlan, measured: int, lang: Lang) -> str:
    """The guard's word, and its numbers as a bar against what is free."""
    need = plan.need
    parts = (
        ("weights", need.weights), ("kv_cache", need.kv_cache), ("vision", need.vision),
        ("workspace", need.workspace), ("runtime", need.context),
    )  # fmt: skip
    whole = max(need.total, plan.device.free, 1)
    bar = "".join(
        f'<span class="part {name}" style="width:{100 * size / whole:.2f}%"'
        f' title="{t(f"plan.{name}", lang)} {bytes_text(size)}"></span>'
        for name, size in parts
        if size
    )
    legend = "".join(
        f'<span class="key {name}">{t(f"plan.{name}", lang)} {bytes_text(size)}</span>' for name, size in parts if size
    )
    words = sentences(plan_notes((*plan.reasons, *plan.remedies), lang), lang)
    device = t("plan.device", lang, name=plan.device.name, free=plan.device.free, total=plan.device.total)
    held = f'<span class="key">{t("plan.measured", lang, bytes=measured)}</span>' if measured else ""
    return (
        f'<div class="plan {plan.verdict}"><div>{html.escape(words)}</div><div class="bar">{bar}</div>'
        f'<div class="legend">{legend}{held}</div><div class="facts">{html.escape(device)}</div></div>'
    )


def offer_html(spec: ModelSpec, plan: MemoryPlan, news: str, lang: Lang) -> str:
    words = sentences([t("models.offer", lang, title=spec.title), *plan_notes(plan.reasons, lang)], lang)
    return f'<div class="offer">{html.escape(words)}</div>{news}'


def state_html(state: State, lang: Lang) -> str:
    return f'<span class="state {state}">{t(f"models.{state}", lang)}</span>'


def progress_html(progress: Progress | None, lang: Lang) -> str:
    """A download's bar and its line."""
    if progress is None:
        return f'<div class="facts">{t("models.stage_checking", lang)}…</div>'
    share = 100 * progress.done / max(progress.total, 1)
    bar = f'<div class="bar"><span class="part done" style="width:{share:.1f}%"></span></div>'
    return f'{bar}<div class="facts">{html.escape(progress_text(progress, lang))}</div>'
