"""The chat tab: its components, and which of ChatEvents' handlers each event calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from interface.chat_events import ChatEvents
from interface.desk import Desk, label
from interface.render import LATEX

# The page's address names its conversation, so that a reload or a bookmark finds it again.
TO_ADDRESS = """(id) => {
  const url = new URL(location.href);
  id ? url.searchParams.set("c", id) : url.searchParams.delete("c");
  history.replaceState(history.state, "", url);
}"""
FROM_ADDRESS = """() => [new URLSearchParams(location.search).get("c") || ""]"""


@dataclass(frozen=True, slots=True)
class ChatTab:
    """The components that others need to wire to."""

    model: gr.Dropdown
    settings: list[Component]
    state: gr.HTML
    offer: gr.HTML
    take_offer: gr.Button
    opened: Any
    """The event after which a page shows its conversation."""


def build(desk: Desk, demo: gr.Blocks) -> ChatTab:
    """Draws the tab and wires it."""
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
        stop = gr.Button(label("chat.stop"), variant="stop", visible=False, scale=0, min_width=84, elem_id="stop")
    system, sliders, usual = _settings(desk)
    conversation = gr.Textbox(visible=False)

    events = ChatEvents(desk)
    held_with: list[Component] = [model, system, *sliders]
    shown: list[Component] = [chat, status, send, stop]
    plain: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}

    def followed(event: Any) -> Any:
        named = event.then(None, [conversation], None, js=TO_ADDRESS, **plain)
        return named.then(events.follow, [conversation, model], shown, **plain)

    asked = gr.on(
        [prompt.submit, send.click], events.ask, [prompt, conversation, *held_with], [prompt, conversation, notice],
        trigger_mode="multiple", **plain,
    )  # fmt: skip
    followed(asked)
    example = chat.example_select(events.example, None, prompt, **plain)
    followed(example.then(events.ask, [prompt, conversation, *held_with], [prompt, conversation, notice], **plain))
    followed(chat.retry(events.retry, [conversation, *held_with], notice, **plain))
    followed(chat.edit(events.edit, [conversation, *held_with], notice, **plain))
    followed(chat.undo(events.undo, [conversation], [prompt, notice], **plain))
    followed(new.click(lambda: ("", "", ""), None, [conversation, prompt, notice], **plain))
    stop.click(events.stop, [conversation], None, queue=False, **plain)
    model.input(events.usual, [model], [system, *sliders], **plain)
    usual.click(events.usual, [model], [system, *sliders], **plain)
    opened = demo.load(events.open, [conversation], [conversation, *held_with], js=FROM_ADDRESS, **plain)
    return ChatTab(model, [system, *sliders], state, offer, take_offer, followed(opened))


def _settings(desk: Desk) -> tuple[gr.Textbox, tuple[Component, ...], gr.Button]:
    usual = desk.library.spec(desk.config.models.model).defaults
    with gr.Sidebar(position="right", open=False, width=300, label=label("chat.settings"), elem_id="settings"):
        system = gr.Textbox(label=label("chat.system"), info=label("chat.system_hint"), lines=4, max_lines=12)
        sliders: tuple[Component, ...] = (
            gr.Slider(
                0, 2, usual.temperature, step=0.05,
                label=label("chat.temperature"), info=label("chat.temperature_hint"),
            ),
            gr.Slider(0.05, 1, usual.top_p, step=0.05, label=label("chat.top_p")),
            gr.Slider(1, 2, usual.repetition_penalty, step=0.005, label=label("chat.repetition_penalty")),
            gr.Slider(16, 8192, usual.max_new_tokens, step=16, label=label("chat.length")),
            gr.Number(-1, precision=0, minimum=-1, label=label("chat.seed"), info=label("chat.seed_hint")),
        )  # fmt: skip
        usual_button = gr.Button(label("chat.defaults"), size="sm")
    return system, sliders, usual_button
