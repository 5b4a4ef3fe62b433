"""A tab for conversations: its components, and which handler each event calls. The chat tab, and what both share.

Ids of the image tab's parts are the chat tab's behind "image-".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from configs.schema import ModelKind
from interface import presets_ui, transfer_ui
from interface.chat_events import ChatEvents
from interface.desk import QUIET, Desk, label
from interface.messages import explain
from interface.render import LATEX, notice_html
from interface.settings import choices, usual_settings
from interface.sidebar import Side

# The page's address names its conversations, so that a reload or a bookmark finds them again.
TO_ADDRESS = """(id) => {
  const url = new URL(location.href);
  id ? url.searchParams.set("%s", id) : url.searchParams.delete("%s");
  history.replaceState(history.state, "", url);
  document.dispatchEvent(new Event("address"));
  document.dispatchEvent(new CustomEvent("follow-begins", { detail: "%s" }));
}"""
# Gradio goes on with nothing after a failure, and what was asked meanwhile has waited for the opening.
BEGUN = """() => { document.dispatchEvent(new CustomEvent("follow-begins", { detail: "%s" })); }"""
FROM_ADDRESS = """() => [new URLSearchParams(location.search).get("%s") || ""]"""
# What a slow page still has to draw of one conversation may come after the next: then that is drawn once more.
ENDED = """() => { for (const event of ["follow-ends", "settled"]) {
  document.dispatchEvent(new CustomEvent(event, { detail: "%s" }));
} }"""
SETTLED = """() => { document.dispatchEvent(new CustomEvent("settled", { detail: "%s" })); }"""
FROM_SIDEBAR = """() => [window.pickedConversation || ""]"""
FEET = "window.desk.feet(element, props, trigger, watch, '%s', () => trigger('settled', {}))"
ADDRESS_NAMES: dict[ModelKind, str] = {"text": "c", "vision": "i"}
PREFIXES: dict[ModelKind, str] = {"text": "", "vision": "image-"}


@dataclass
class Talk:
    """The components of a tab in which one talks with a model."""

    kind: ModelKind
    model: gr.Dropdown
    state: gr.HTML
    new: gr.Button
    chat: gr.Chatbot
    status: gr.HTML
    notice: gr.HTML
    prompt: Component
    send: gr.Button
    stop: gr.Button
    settings: list[Component]
    """System prompt, temperature, top-p, repetition penalty, length, seed; the image tab's detail."""
    usual: gr.Button
    conversation: gr.Textbox
    feet: gr.HTML
    """The lines under the messages, for page.js; their buttons, and a page that comes back, call from here."""
    meter: gr.HTML
    seen: gr.Textbox
    since: gr.Textbox
    """The place of the first message that is drawn, once a page has asked for earlier ones."""
    redraw: list[Callable[[Any], None]] = field(default_factory=list, kw_only=True)
    """What draws the server's words anew after an event: the reader has chosen another language."""

    @property
    def held_with(self) -> list[Component]:
        return [self.model, *self.settings]

    @property
    def settled(self) -> Any:
        """The event after which nothing is being answered on a page: its opening, and the end of each answer.

        The page's scripts make one of them all, as the list of conversations has one (sidebar.py): each event that
        Gradio knows makes every other slower.
        """
        return self.feet.settled

    @property
    def shown(self) -> list[Component]:
        return [self.chat, self.status, self.send, self.stop, self.feet, self.meter, self.seen]


@dataclass
class ChatTab(Talk):
    """The chat tab, with what it offers besides the chosen model."""

    offer: gr.HTML
    take_offer: gr.Button
    swap: gr.Button
    dismiss: gr.Button


def build(desk: Desk, demo: gr.Blocks, side: Side) -> ChatTab:
    """Draws the chat tab and wires it."""
    with gr.Row(elem_id="chat-head"):
        model, state, new = draw_head(desk, "text")
    with gr.Row(elem_id="offer-row"):
        offer = gr.HTML(elem_id="offer", visible=False)
        take_offer, swap, dismiss = (
            gr.Button(size="sm", visible=False, scale=0, min_width=width, elem_id=id)
            for id, width in (("take-offer", 200), ("swap", 200), ("dismiss", 110))
        )
    chat, status, notice, feet, meter = draw_conversation("text")
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
        send, stop = draw_buttons("text")
    drawer = draw_settings(desk, "text")
    tab = ChatTab(
        "text", model, state, new, chat, status, notice, prompt, send, stop, *drawer, feet, meter,
        gr.Textbox(visible=False), gr.Textbox(visible=False), offer, take_offer, swap, dismiss,
    )  # fmt: skip
    wire(ChatEvents(desk), tab, demo, side)

    def news(request: gr.Request) -> str:
        """-> notice. That the conversations' file was set aside, to the first page that is opened since."""
        damaged, desk.history.set_aside = desk.history.set_aside, None
        return notice_html(explain(damaged, desk.lang(request))) if damaged else ""

    demo.load(news, None, tab.notice, **QUIET)
    return tab


def draw_head(desk: Desk, kind: ModelKind) -> tuple[gr.Dropdown, gr.HTML, gr.Button]:
    """Model picker, state, and the button that starts afresh."""
    prefix, offered = PREFIXES[kind], choices(desk, kind)
    model = gr.Dropdown(
        offered,
        value=desk.first_model(kind),
        label=label("chat.model"),
        show_label=False,
        container=False,
        filterable=False,
        elem_id=f"{prefix}model",
        scale=0,
        min_width=440 if kind == "text" else 240,
    )
    state = gr.HTML(elem_id=f"{prefix}model-state")
    new = gr.Button(label("chat.new"), size="sm", scale=0, min_width=96, elem_id=f"{prefix}new-chat")
    return model, state, new


def draw_conversation(kind: ModelKind) -> tuple[gr.Chatbot, gr.HTML, gr.HTML, gr.HTML, gr.HTML]:
    """The messages, the line about the answer, the place for notices, the lines under the messages, the meter."""
    prefix = PREFIXES[kind]
    chat = gr.Chatbot(
        label=label("chat.conversation"),
        show_label=False,
        container=False,
        elem_id=f"{prefix}chat",
        editable="user",
        buttons=["copy", "copy_all"],
        feedback_options=None,
        latex_delimiters=LATEX,
        height="100%",
        autoscroll=False,  # see ending.js
        scale=1,
        # Gradio cannot edit a bubble that holds more than text: images get one of their own.
        group_consecutive_messages=False,
    )
    with gr.Row(elem_id=f"{prefix}below"):
        status, meter = gr.HTML(elem_id=f"{prefix}status"), gr.HTML(elem_id=f"{prefix}meter")
    feet = gr.HTML(elem_id=f"{prefix}feet", html_template="", js_on_load=FEET % prefix)
    return chat, status, gr.HTML(elem_id=f"{prefix}notice"), feet, meter


def draw_buttons(kind: ModelKind) -> tuple[gr.Button, gr.Button]:
    """Send and Stop."""
    prefix = PREFIXES[kind]
    return (
        gr.Button(label("chat.send"), variant="primary", scale=0, min_width=84, elem_id=f"{prefix}send"),
        gr.Button(label("chat.stop"), visible=False, scale=0, min_width=84, elem_id=f"{prefix}stop"),
    )


def draw_settings(desk: Desk, kind: ModelKind) -> tuple[list[Component], gr.Button, gr.Textbox]:
    """The drawer: what an answer is asked for with, the presets of it, and the way out for the conversation.

    The last component is the conversation's id.
    """
    prefix, conversation = PREFIXES[kind], gr.Textbox(visible=False)
    system, temperature, top_p, penalty, length, seed, *_ = usual_settings(desk.library.spec(desk.first_model(kind)))
    with gr.Sidebar(position="right", open=False, width=300, label=label("chat.settings"), elem_id=f"{prefix}settings"):
        bar = presets_ui.build(prefix)
        settings: list[Component] = [
            gr.Textbox(system, label=label("chat.system"), info=label("chat.system_hint"), lines=4, max_lines=12),
            gr.Slider(
                0, 2, temperature, step=0.05,
                label=label("chat.temperature"), info=label("chat.temperature_hint"),
            ),
            gr.Slider(0.05, 1, top_p, step=0.05, label=label("chat.top_p")),
            gr.Slider(1, 2, penalty, step=0.005, label=label("chat.repetition_penalty")),
            gr.Slider(16, 8192, length, step=16, label=label("chat.length")),
            gr.Number(seed, precision=0, minimum=-1, label=label("chat.seed"), info=label("chat.seed_hint")),
        ]  # fmt: skip
        if kind == "vision":
            details = [(label(f"vision.detail_{one}"), one) for one in ("auto", "low", "medium", "high")]
            settings.append(
                gr.Radio(details, value="auto", label=label("vision.detail"), info=label("vision.detail_hint"))
            )
        usual = gr.Button(label("chat.defaults"), size="sm")
        with gr.Accordion(label("export.title"), open=False, elem_id=f"{prefix}transfer"):
            transfer_ui.build_one(desk, conversation, prefix)
    presets_ui.wire(bar, desk, kind, settings)
    return settings, usual, conversation


def wire(events: ChatEvents, tab: Talk, demo: gr.Blocks, side: Side) -> None:
    """Whatever may have started an answer, or opened a conversation, is followed."""
    where = [tab.conversation]
    following = [tab.conversation, tab.model, tab.since]
    again, asked = [*where, tab.seen, *tab.held_with], [tab.prompt, *where, tab.notice]
    asking = [tab.prompt, *again]
    named_by = ADDRESS_NAMES[tab.kind]
    to_address, from_address = TO_ADDRESS % (named_by, named_by, tab.kind), FROM_ADDRESS % named_by

    def called(name: str) -> dict[str, Any]:
        """Wired quietly, under a name that programs and tests can rely on."""
        return QUIET | {"api_name": PREFIXES[tab.kind].replace("-", "_") + name}

    # A message cannot be edited or asked again while an answer grows: so much the Chatbot takes from the progress.
    drawn = {"show_progress_on": [tab.chat]}
    # "multiple": what is followed already goes on with the next.
    follow = called("follow") | drawn | {"trigger_mode": "multiple"}

    def followed(event: Any) -> None:
        named = event.then(None, where, None, js=to_address, **QUIET)
        end = named.then(events.follow, following, tab.shown, **follow)
        end.then(None, None, None, js=ENDED % tab.kind, **QUIET)

    tab.redraw.append(followed)
    # "multiple": Gradio drops a second question on one page without a word; ours is refused with one, and kept.
    ask = [tab.prompt.submit, tab.send.click]
    followed(gr.on(ask, events.ask, asking, asked, trigger_mode="multiple", **called("ask")))
    example = tab.chat.example_select(events.example, None, tab.prompt, **QUIET)
    followed(example.then(events.ask, asking, asked, **QUIET))
    followed(tab.chat.retry(events.retry, again, tab.notice, **called("retry")))
    edited = [*where, tab.seen, tab.since, *tab.held_with]
    followed(tab.chat.edit(events.edit, edited, tab.notice, **called("edit")))
    followed(tab.chat.undo(events.undo, [*where, tab.seen], [tab.prompt, tab.notice], **called("undo")))
    followed(tab.feet.click(events.act, again, [tab.notice, tab.since], **called("act")))
    looked = tab.feet.submit(events.look, [*following, tab.seen], tab.shown, **called("look") | drawn)
    looked.then(None, None, None, js=SETTLED % tab.kind, **QUIET)
    opened = [tab.conversation, *tab.held_with]
    first = demo.load(events.open, where, opened, js=from_address, **called("open"))
    followed(first)
    first.failure(None, None, None, js=BEGUN % tab.kind, **QUIET)
    # "always_last": of several that are opened in a hurry, the last is what stays.
    followed(side.opened(tab.kind)(events.open, where, opened, js=FROM_SIDEBAR, trigger_mode="always_last", **QUIET))
    side.overtaken(tab.kind)(events.follow, following, tab.shown, **follow)
    side.opened(tab.kind)(None, None, [tab.notice, tab.seen, tab.since], js="() => ['', '', '']", **QUIET)
    # In the browser, so that what is asked right after is asked afresh; what stands in the box stays.
    for left in (tab.new.click, tab.chat.clear, side.left(tab.kind)):
        followed(left(None, None, [*asked[1:], tab.seen, tab.since], js="() => ['', '', '', '']", **QUIET))
    tab.stop.click(events.stop, where, None, queue=False, **called("stop"))
    tab.model.input(events.usual, [tab.model], tab.settings, **QUIET)
    tab.usual.click(events.usual, [tab.model], tab.settings, **QUIET)
