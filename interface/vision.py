"""The image tab: questions about images, with the guard's word before a model is loaded for them."""

from __future__ import annotations

import gradio as gr

from interface import panel
from interface.chat import Talk, draw_buttons, draw_conversation, draw_head, draw_settings, wire
from interface.desk import QUIET, Desk, label
from interface.sidebar import Side
from interface.vision_events import SAMPLES, VisionEvents, sample_path

LONG_PASTE = 10**6
"""Characters: Gradio turns a pasted text that is longer into a file, which here is for images."""


def build(desk: Desk, demo: gr.Blocks, tab: gr.Tab, side: Side) -> Talk:
    """Draws the tab and wires it."""
    with gr.Row(elem_id="image-chat-head"):
        model, state, new = draw_head(desk, "vision")
        unload = gr.Button(
            label("models.unload"), size="sm", visible=False, scale=0, min_width=84, elem_id="image-unload"
        )
    guard = panel.build("image", unload)
    chat, status, notice, feet, meter = draw_conversation("vision")
    with gr.Column(visible=False, elem_id="image-camera") as place:
        camera = gr.Image(sources=["webcam"], type="filepath", image_mode=None, show_label=False, height=320)
    with gr.Row(elem_id="image-composer"):
        photograph = gr.Button(label("vision.camera"), size="sm", scale=0, min_width=40, elem_id="photograph")
        # No file types: Gradio would refuse others by their name and in English; the gate says what is wrong.
        prompt = gr.MultimodalTextbox(
            label=label("vision.prompt"),
            placeholder=label("vision.prompt_hint"),
            show_label=False,
            container=False,
            file_count="multiple",
            max_lines=10,
            submit_btn=False,
            max_plain_text_length=LONG_PASTE,
            elem_id="image-prompt",
        )
        send, stop = draw_buttons("vision")
    drawer = draw_settings(desk, "vision")
    talk = Talk(
        "vision", model, state, new, chat, status, notice, prompt, send, stop, *drawer, feet, meter,
        gr.Textbox(visible=False), gr.Textbox(visible=False),
    )  # fmt: skip
    events = VisionEvents(desk)
    wire(events, talk, demo, side)
    panel.wire(desk, guard, talk, events, tab)
    for name in SAMPLES:  # everybody may see them
        desk.files.lend_copy(None, sample_path(name))
    is_open = gr.State(False)
    photograph.click(events.camera, [is_open], [place, is_open], **QUIET)
    camera.input(events.taken, [prompt, camera], [prompt, camera, place, is_open], **QUIET)
    return talk
