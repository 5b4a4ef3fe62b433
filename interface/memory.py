"""The memory panel on the models tab: who holds the memory now and in the last minutes; load, unload and swap.

Drawn by a timer that runs while the tab is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from configs.schema import ModelSpec
from interface.desk import QUIET, Desk, label
from interface.i18n import Lang, t
from interface.memory_html import memory_html
from interface.settings import marked
from interface.shelf import Shelf

EVERY = 1.0


@dataclass(frozen=True, slots=True)
class MemoryPanel:
    """`model` is the one that the button is about."""

    body: gr.HTML
    model: gr.Dropdown
    act: gr.Button
    news: gr.HTML
    timer: gr.Timer


class MemoryEvents:
    """One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._shelf = desk, Shelf(desk)

    def refresh(self, request: gr.Request, model: str) -> list[Any]:
        """-> body, button, news."""
        lang = self._desk.lang(request)
        engaged = self._desk.runner.status().engaged
        catalogue = self._desk.library.catalogue
        titles = {one.model: catalogue[one.model].title for one in engaged if one.model in catalogue}
        body = memory_html(self._desk.memory.samples(), {one.model: one.plan for one in engaged}, titles, lang)
        spec = self._desk.library.spec(self._shelf.known(model, "text"))
        if spec.remote is not None:  # the first of a list of servers only
            return [body, gr.update(value="…", interactive=False), ""]
        words, able = self._offered(spec, lang)
        return [body, gr.update(value=words, interactive=able), self._shelf.news(spec.id, lang)]

    def act(self, model: str) -> None:
        """Unloads what is loaded, loads what is here; what must go for it goes."""
        model = self._shelf.known(model, "text")
        match self._shelf.state(model):
            case "loaded":
                self._desk.loads.unload(model)
            case "ready" if self._shelf.plan(self._desk.library.spec(model)).verdict != "refuse":
                self._desk.loads.load(model)
            case _:
                pass

    def models(self) -> list[tuple[Any, str]]:
        return [marked(spec) for spec in self._desk.library.catalogue.models if spec.remote is None]

    def listed(self) -> Any:
        """-> model: the list as it is now."""
        return gr.update(choices=self.models())

    def _offered(self, spec: ModelSpec, lang: Lang) -> tuple[str, bool]:
        """What the button says, and whether it can be pressed."""
        state = self._shelf.state(spec.id)
        if state == "loaded":
            return t("memory.unload", lang, title=spec.title, bytes=self._shelf.measured(spec.id)), True
        if state != "ready":
            return t("memory.loading" if state == "loading" else "memory.not_here", lang, title=spec.title), False
        plan = self._shelf.plan(spec)
        if plan.verdict == "refuse":
            return t("memory.refused", lang, title=spec.title, need=plan.need.total), False
        if plan.verdict == "unload_first":
            gone = ", ".join(self._desk.library.spec(model).title for model in plan.evict)
            return t("memory.swap", lang, title=spec.title, gone=gone), True
        return t("memory.load", lang, title=spec.title, need=plan.need.total), True


def build(desk: Desk) -> MemoryPanel:
    """Draws the panel."""
    events = MemoryEvents(desk)
    models = events.models()
    configured = desk.first_model("text")
    first = configured if configured in [id for _, id in models] else models[0][1]
    with gr.Column(elem_id="memory", elem_classes="sheet"):
        gr.Markdown(label("memory.title"), elem_classes="section")  # type: ignore[arg-type]
        body = gr.HTML(elem_id="memory-now")
        with gr.Row(elem_id="memory-act"):
            model = gr.Dropdown(
                models, value=first, label=label("memory.model"), show_label=False, container=False,
                filterable=False, elem_id="memory-model", min_width=200,
            )  # fmt: skip
            act = gr.Button("…", size="sm", min_width=200, interactive=False, elem_id="memory-button")
        news = gr.HTML(elem_id="memory-news")
    return MemoryPanel(body, model, act, news, gr.Timer(EVERY, active=False, render=False))


def wire(
    desk: Desk,
    panel: MemoryPanel,
    tab: gr.Tab,
    others: list[gr.Tab],
    listed: gr.State,
) -> None:
    """Looks while `tab` is open, and not while one of the `others` is."""
    events, model = MemoryEvents(desk), [panel.model]
    shown = [panel.body, panel.act, panel.news]
    panel.timer.tick(events.refresh, model, shown, **QUIET)
    panel.model.change(events.refresh, model, shown, **QUIET)
    panel.act.click(events.act, model, None, **QUIET).then(events.refresh, model, shown, **QUIET)
    tab.select(lambda: gr.Timer(active=True), None, panel.timer, **QUIET).then(events.refresh, model, shown, **QUIET)
    listed.change(events.listed, None, model, **QUIET)
    for other in others:
        other.select(lambda: gr.Timer(active=False), None, panel.timer, **QUIET)
