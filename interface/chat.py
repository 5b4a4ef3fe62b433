"""The chat tab: its components, and which of ChatEvents' handlers each event calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from interface.chat_events import ChatEvents
from interface.desk import QUIET, Desk, label
from interface.render import LATEX

# The page's address names its conversation, so that a reload or a bookmark finds it again.
TO_ADDRESS = """(id) => {
  const url = new URL(location.href);
  id ? url.searchParams.set("c", id) : url.searchParams.delete("c");
  history.replaceState(history.state, "", url);
}"""
FROM_ADDRESS = """() => [new URLSearchParams(location.search).get("c") || ""]"""


@dataclass
class ChatTab:
    """The tab's components."""

    model: gr.Dropdown
    state: gr.HTML
    new: gr.Button
    offer: gr.HTML
    take_offer: gr.Button
    chat: gr.Chatbot
    status: gr.HTML
    notice: gr.HTML
    prompt: gr.Textbox
    send: gr.Button
    stop: gr.Button
    settings: list[Component]
    """System prompt, temperature, top-p, repetition penalty, length, seed."""
    usual: gr.Button
    conversation: gr.Textbox
    settled: list[Any] = field(default_factory=list)
    """The events after which nothing is being answered on a page: its opening, and the end of each answer."""

    @property
    def held_with(self) -> list[Component]:
        return [self.model, *self.settings]

    @property
    def shown(self) -> list[Component]:
        return [self.chat, self.status, self.send, self.stop]


def build(desk: Desk, demo: gr.Blocks) -> ChatTab:
    """Draws the tab and wires it."""
    model, state, new = _head(desk)
    with gr.Row(elem_id="offer-row"):
        offer = gr.HTML(elem_id="offer", visible=False)
        take_offer = gr.Button(size="sm", visible=False, scale=0, min_width=180, elem_id="take-offer")
    chat = gr.Chatbot(
        label=label("chat.conversation"),
        show_label=False,
        container=False,
        elem_id="chat",
        editable="user",
        buttons=["copy", "copy_all"],
        feedback_options=None,
        latex_delimiters=LATEX,
        height="100%",
        scale=1,
    )
    status = gr.HTML(elem_id="status")
    notice = gr.HTML(elem_id="notice")
    prompt, send, stop = _composer()
    settings, usual = _settings(desk)
    tab = ChatTab(
        model, state, new, offer, take_offer, chat, status, notice, prompt, send, stop, settings, usual,
        conversation=gr.Textbox(visible=False),
    )  # fmt: skip
    _wire(ChatEvents(desk), tab, demo)
    return tab


def _head(desk: Desk) -> tuple[gr.Dropdown, gr.HTML, gr.Button]:
    with gr.Row(elem_id="chat-head"):
        model = gr.Dropdown(
            [(spec.title, spec.id) for spec in desk.library.catalogue.models],
            value=desk.config.models.model,
            label=label("chat.model"),
            show_label=False,
            container=False,
            filterable=False,
            elem_id="model",
            scale=0,
            min_width=240,
        )
        state = gr.HTML(elem_id="model-state")
        new = gr.Button(label("chat.new"), size="sm", scale=0, min_width=96, elem_id="new-chat")
    return model, state, new


def _composer() -> tuple[gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(elem_id="composer"):
        prompt = gr.Textbox(
            label=label("chat.prompt"),
            placeholder=label("chat.prompt_hint"),
            show_label=False,
            container=False,
            max_lines=10,
            autofocus=True,
            elem_id="prompt",
        )
        send = gr.Button(label("chat.send"), variant="primary", scale=0, min_width=84, elem_id="send")
        stop = gr.Button(label("chat.stop"), visible=False, scale=0, min_width=84, elem_id="stop")
    return prompt, send, stop


def _settings(desk: Desk) -> tuple[list[Component], gr.Button]:
    usual = desk.library.spec(desk.config.models.model).defaults
    with gr.Sidebar(position="right", open=False, width=300, label=label("chat.settings"), elem_id="settings"):
        settings: list[Component] = [
            gr.Textbox(label=label("chat.system"), info=label("chat.system_hint"), lines=4, max_lines=12),
            gr.Slider(
                0, 2, usual.temperature, step=0.05,
                label=label("chat.temperature"), info=label("chat.temperature_hint"),
            ),
            gr.Slider(0.05, 1, usual.top_p, step=0.05, label=label("chat.top_p")),
            gr.Slider(1, 2, usual.repetition_penalty, step=0.005, label=label("chat.repetition_penalty")),
            gr.Slider(16, 8192, usual.max_new_tokens, step=16, label=label("chat.length")),
            gr.Number(-1, precision=0, minimum=-1, label=label("chat.seed"), info=label("chat.seed_hint")),
        ]  # fmt: skip
        return settings, gr.Button(label("chat.defaults"), size="sm")


def _wire(events: ChatEvents, tab: ChatTab, demo: gr.Blocks) -> None:
    """Whatever may have started an answer, or opened a conversation, is followed."""
    where, asking = [tab.conversation], [tab.prompt, tab.conversation, *tab.held_with]
    again, asked = [tab.conversation, *tab.held_with], [tab.prompt, tab.conversation, tab.notice]

    def followed(event: Any) -> None:
        named = event.then(None, where, None, js=TO_ADDRESS, **QUIET)
        tab.settled.append(named.then(events.follow, [tab.conversation, tab.model], tab.shown, **QUIET))

    # "multiple": Gradio drops a second question on one page without a word; ours is refused with one, and kept.
    followed(gr.on([tab.prompt.submit, tab.send.click], events.ask, asking, asked, trigger_mode="multiple", **QUIET))
    example = tab.chat.example_select(events.example, None, tab.prompt, **QUIET)
    followed(example.then(events.ask, asking, asked, **QUIET))
    followed(tab.chat.retry(events.retry, again, tab.notice, **QUIET))
    followed(tab.chat.edit(events.edit, again, tab.notice, **QUIET))
    followed(tab.chat.undo(events.undo, where, [tab.prompt, tab.notice], **QUIET))
    followed(demo.load(events.open, where, [tab.conversation, *tab.held_with], js=FROM_ADDRESS, **QUIET))
    # Who leaves a conversation does not follow it any longer: it would go on being drawn into the new one.
    left = gr.on([tab.new.click, tab.chat.clear], lambda: ("", "", ""), None, asked, cancels=[*tab.settled], **QUIET)
    followed(left)
    tab.stop.click(events.stop, where, None, queue=False, **QUIET)
    tab.model.input(events.usual, [tab.model], tab.settings, **QUIET)
    tab.usual.click(events.usual, [tab.model], tab.settings, **QUIET)
