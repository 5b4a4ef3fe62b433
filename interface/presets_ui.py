"""Presets in the settings' drawer: one list to choose from, whose name can be typed over to save another."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from configs.schema import ModelKind
from engines.errors import AppError
from interface.desk import QUIET, Desk, label
from interface.i18n import t
from interface.messages import explain
from interface.presets import Presets, tidied
from interface.settings import settings_from, slider_values


@dataclass(frozen=True, slots=True)
class PresetBar:
    """The components."""

    name: gr.Dropdown
    save: gr.Button
    delete: gr.Button
    said: gr.HTML


def build(prefix: str) -> PresetBar:
    """Draws the list with its two buttons; `prefix` is that of the tab's ids."""
    name = gr.Dropdown(
        [], value="", label=label("preset.name"), info=label("preset.name_hint"),
        allow_custom_value=True, elem_id=f"{prefix}preset",
    )  # fmt: skip
    with gr.Row(elem_classes="drawer-buttons"):
        save = gr.Button(label("preset.save"), size="sm", min_width=80, elem_id=f"{prefix}preset-save")
        delete = gr.Button(label("preset.delete"), size="sm", min_width=80, elem_id=f"{prefix}preset-delete")
    return PresetBar(name, save, delete, gr.HTML(elem_id=f"{prefix}preset-said", elem_classes="drawer-said"))


def wire(bar: PresetBar, desk: Desk, kind: ModelKind, settings: list[Any]) -> None:
    """Choosing fills the settings in; saving takes them as they stand."""
    handlers = PresetEvents(desk, kind)
    gr.on(None, handlers.names, None, bar.name, **QUIET)  # when a page is opened
    bar.name.focus(handlers.choices, None, bar.name, **QUIET)  # another page may have saved one
    # Not its input, which comes when a name was typed, too: then the settings are to be kept under it.
    bar.name.select(handlers.chosen, None, [bar.said, *settings], **QUIET)
    bar.save.click(handlers.save, [bar.name, *settings], [bar.name, bar.said], **QUIET)
    bar.delete.click(handlers.delete, [bar.name], [bar.name, bar.said], **QUIET)


class PresetEvents:
    """What the list and its buttons do."""

    def __init__(self, desk: Desk, kind: ModelKind) -> None:
        self._desk, self._kind = desk, kind

    def names(self, request: gr.Request) -> Any:
        """-> the list, with nothing chosen."""
        try:
            return gr.update(choices=self._presets(request).names, value="")
        except AppError:
            return gr.skip()  # the conversation says what is wrong

    def choices(self, request: gr.Request) -> Any:
        """-> the list; what is typed stays."""
        try:
            return gr.update(choices=self._presets(request).names)
        except AppError:
            return gr.skip()

    def chosen(self, request: gr.Request, choice: gr.SelectData) -> tuple[Any, ...]:
        """-> what is said, system, *sliders. One that is not kept any more changes nothing."""
        try:
            preset, said = self._presets(request).get(str(choice.value)), ""
        except AppError as error:
            preset, said = None, self._said(request, error)
        if preset is None:
            return (said, *[gr.skip()] * (7 if self._kind == "vision" else 6))
        sliders = slider_values(preset.settings)
        return ("", preset.system, *sliders, *([preset.settings.detail] if self._kind == "vision" else ()))

    def save(self, request: gr.Request, name: str | None, system: str, *sliders: Any) -> tuple[Any, str]:
        """-> the list, what is said."""
        try:
            if not tidied(name or ""):
                return gr.skip(), self._said(request, "preset.nameless")
            known = self._presets(request).names
            preset = self._presets(request).save(name or "", system.strip(), settings_from(*sliders))
            key = "preset.replaced" if preset.name in known else "preset.saved"
            shown = gr.update(choices=self._presets(request).names, value=preset.name)
            return shown, self._said(request, key, preset.name)
        except AppError as error:
            return gr.skip(), self._said(request, error)

    def delete(self, request: gr.Request, name: str | None) -> tuple[Any, str]:
        """-> the list, what is said."""
        try:
            if not self._presets(request).delete(name or ""):
                key = "preset.missing" if tidied(name or "") else "preset.nameless"
                return gr.skip(), self._said(request, key, tidied(name or ""))
            shown = gr.update(choices=self._presets(request).names, value="")
            return shown, self._said(request, "preset.deleted", tidied(name or ""))
        except AppError as error:
            return gr.skip(), self._said(request, error)

    def _presets(self, request: gr.Request) -> Presets:
        return Presets(self._desk.of(request).store, self._kind)

    def _said(self, request: gr.Request, what: str | AppError, name: str = "") -> str:
        lang = self._desk.lang(request)
        words = t(what, lang, name=name) if isinstance(what, str) else explain(what, lang).line
        return f'<div role="status">{html.escape(words)}</div>'
