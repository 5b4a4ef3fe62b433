"""The guard's word before a model is loaded, where it is used: plan, load and unload, and remedies as buttons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from engines.memory import Note
from interface.chat import Talk
from interface.chat_events import ChatEvents
from interface.desk import QUIET, Desk, label
from interface.i18n import Lang, t
from interface.plans import plan_html
from interface.shelf import Buttons

TICK = 0.5
BUTTONS = ("download", "resume", "pause", "cancel", "load", "anyway")
REMEDIES = 3


@dataclass(frozen=True, slots=True)
class Panel:
    """`actions` holds what the remedies' buttons do at the moment, as (what, model) in their order."""

    body: gr.HTML
    buttons: list[gr.Button]
    remedies: list[gr.Button]
    actions: gr.State
    unload: gr.Button
    timer: gr.Timer


class PanelEvents(Buttons):
    """What the panel does. One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk, talk: ChatEvents) -> None:
        super().__init__(desk)
        self._talk = talk

    def refresh(self, request: gr.Request, model: str) -> list[Any]:
        """-> state, body, buttons, remedies' buttons and actions, unload, timer."""
        lang, busy = self._desk.lang(request), self._shelf.busy  # asked first: what ends from here on is still shown
        model = self._shelf.known(model, self._talk.kind)
        state, spec = self._shelf.state(model), self._desk.library.spec(model)
        loaded, plan = state == "loaded", self._shelf.plan(spec)
        doable = [note for note in plan.remedies if self._action(note)][:REMEDIES]
        told = [note for note in plan.remedies if note not in doable]
        body = plan_html(plan, 0, self._shelf.beside(model), lang, told) + self._shelf.news(model, lang)
        refused = plan.verdict == "refuse"
        seen = (
            state == "absent",
            state == "paused",
            state == "downloading" and self._shelf.pausable(model),
            state in ("downloading", "paused"),
            state == "ready" and not refused,
            state == "ready" and refused,
        )
        pressing = doable if state in ("ready", "absent", "paused") else []
        return [
            self._shelf.how(model, lang),
            gr.update(value="" if loaded else body, visible=not loaded),
            *(gr.update(visible=one) for one in seen),
            *(self._button(note, lang) for note in pressing),
            *(gr.update(visible=False) for _ in range(REMEDIES - len(pressing))),
            [self._action(note) for note in pressing],
            gr.update(visible=loaded),
            gr.Timer(active=busy),
        ]

    def anyway(self, model: str) -> None:
        """Against the guard's word."""
        self._desk.loads.load(model, force=True)

    def remedy(self, number: int, actions: list[tuple[str, str]]) -> Any:
        """-> model, *its settings. Does what a remedy's button says."""
        what, model = actions[number]
        if what == "use_model":
            return model, *self._talk.usual(model)
        self._desk.loads.unload(model)
        return (gr.skip(),) * (1 + len(self._talk.usual(model)))

    def _action(self, note: Note) -> tuple[str, str] | None:
        """What a button can do about a remedy; the others are only told."""
        if note.code == "unload":
            return "unload", str(note.facts["model"])
        if note.code == "use_model" and self._desk.library.spec(str(note.facts["model"])).kind == self._talk.kind:
            return "use_model", str(note.facts["model"])
        return None

    def _button(self, note: Note, lang: Lang) -> Any:
        title = self._desk.library.spec(str(note.facts["model"])).title
        return gr.update(visible=True, value=t(f"plan.do_{note.code}", lang, **dict(note.facts) | {"model": title}))


def build(kind: str, unload: gr.Button) -> Panel:
    """Draws the panel; `unload` stands where the tab has put it."""
    with gr.Column(elem_id=f"{kind}-panel", elem_classes="guard"):
        body = gr.HTML()
        with gr.Row(elem_classes="card-buttons"):
            buttons = [
                gr.Button(
                    label(f"models.{name}"), size="sm", visible=False, scale=0, min_width=110,
                    variant="primary" if name in ("load", "download", "resume") else "secondary",
                )
                for name in BUTTONS
            ]  # fmt: skip
            remedies = [gr.Button(size="sm", visible=False, scale=0, min_width=110) for _ in range(REMEDIES)]
    return Panel(body, buttons, remedies, gr.State([]), unload, gr.Timer(TICK, active=False))


def wire(desk: Desk, panel: Panel, talk: Talk, talk_events: ChatEvents, tab: gr.Tab) -> None:
    """Whatever may change the guard's word, or starts something that takes a while, is shown."""
    events, model = PanelEvents(desk, talk_events), [talk.model]
    shown = [talk.state, panel.body, *panel.buttons, *panel.remedies, panel.actions, panel.unload, panel.timer]

    def refreshed(event: Any) -> None:
        event.then(events.refresh, model, shown, **QUIET)

    talk.redraw.append(refreshed)
    talk.settled(events.refresh, model, shown, **QUIET)
    panel.timer.tick(events.refresh, model, shown, **QUIET)
    talk.model.change(events.refresh, model, shown, **QUIET)
    tab.select(events.refresh, model, shown, **QUIET)
    for button, handler in zip(
        panel.buttons,
        (events.download, events.download, events.pause, events.cancel, events.load, events.anyway),
        strict=True,
    ):
        refreshed(button.click(handler, model, None, **QUIET))
    refreshed(panel.unload.click(events.unload, model, None, **QUIET))
    for number, button in enumerate(panel.remedies):
        refreshed(button.click(events.remedy, [gr.State(number), panel.actions], talk.held_with, **QUIET))
