"""The look: paper and ink, and one red seal. Fonts are the reader's own: nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from interface.i18n import LANGS, texts
from interface.keys import words

CSS = [Path(__file__).with_name(name) for name in ("style.css", "sidebar.css")]
SCRIPTS = tuple(Path(__file__).with_name(name) for name in ("page.js", "ending.js", "connection.js", "keyboard.js"))

SANS = ("system-ui", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono CJK SC", "monospace")

INK = gr.themes.Color("#f7f5f0", "#efece4", "#dfdbd0", "#c6c1b4", "#a39e92", "#7d796f", "#5f5c55", "#46443f",
                      "#302f2c", "#232220", "#191817", name="ink")  # fmt: skip
SEAL = gr.themes.Color("#fdf3f0", "#fae3dd", "#f3c5ba", "#e89e8d", "#d9725c", "#c3503a", "#a93f2b", "#8b3323",
                       "#6d291d", "#4f1f17", "#351410", name="seal")  # fmt: skip

PAPERS = (INK.c50, INK.c950)
"""The background by day and by night."""


def theme() -> gr.themes.Base:
    """Gradio's base theme in our colours and with fonts that are on every computer."""
    return gr.themes.Base(
        primary_hue=SEAL, secondary_hue=INK, neutral_hue=INK, font=SANS, font_mono=MONO, radius_size="md",
        text_size="md", spacing_size="md",
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_300",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_400",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
    )  # fmt: skip


def head() -> str:
    """The scripts of the page that need it to be there."""
    said = {lang: words(lang) for lang in LANGS}
    scripts = [path.read_text(encoding="utf-8").replace("WORDS", json.dumps(said)) for path in SCRIPTS]
    return "<script>" + "\n".join(scripts) + "</script>"


def translations() -> gr.I18n:
    """Our sentences for the labels that the browser puts in."""
    words = {lang: {key.replace(".", "_"): text for key, text in texts(lang).items()} for lang in LANGS}
    return gr.I18n(**{"en": words["en"], "zh": words["zh"], "zh-CN": words["zh"]})
