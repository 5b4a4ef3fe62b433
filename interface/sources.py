"""On the models tab: where models are fetched from, and adding one by a repository's id or by a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engines.errors import AppError
from engines.preferences import CHOICES, SourceChoice, mirror_address
from interface.desk import QUIET, Desk, label
from interface.i18n import t
from interface.messages import explain
from interface.plans import news_html
from interface.render import notice_html


@dataclass(frozen=True, slots=True)
class SourceParts:
    """Where from: the choice, a mirror's address, and what is wrong with it."""

    choice: gr.Radio
    row: gr.Row
    mirror: gr.Textbox
    use: gr.Button
    notice: gr.HTML


@dataclass(frozen=True, slots=True)
class AddParts:
    name: gr.Textbox
    add: gr.Button
    news: gr.HTML


class SourceEvents:
    """One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def now(self) -> tuple[Any, ...]:
        """-> choice, row, mirror, notice: as it is kept."""
        kept = self._desk.library.preferred.now
        return kept.source, gr.update(visible=kept.source == "mirror"), kept.mirror, ""

    def choose(self, request: gr.Request, choice: SourceChoice, mirror: str) -> tuple[Any, Any]:
        """-> row, notice. A mirror counts once it has an address."""
        if choice != "mirror":
            self._desk.library.preferred.change(source=choice)
            return gr.update(visible=False), ""
        notice = self.use_mirror(request, mirror) if mirror.strip() else ""
        return gr.update(visible=True), notice

    def use_mirror(self, request: gr.Request, mirror: str) -> str:
        """-> notice."""
        lang = self._desk.lang(request)
        try:
            address = mirror_address(mirror)
        except AppError as error:
            return notice_html(explain(error, lang))
        self._desk.library.preferred.change(source="mirror", mirror=address)
        return news_html(t("sources.mirror_kept", lang, address=address))

    def add(self, request: gr.Request, name: str) -> Iterator[tuple[Any, Any]]:
        """-> name, news. What cannot be added stays in the box, with the reason."""
        lang = self._desk.lang(request)
        if not name.strip():
            yield gr.skip(), ""
            return
        yield gr.skip(), news_html(t("sources.looking", lang, name=name.strip()))
        try:
            spec = self._desk.library.add(name)
        except AppError as error:
            yield gr.skip(), notice_html(explain(error, lang))
        else:
            if spec.remote is not None:
                kind = t(f"models.kind_{spec.kind}", lang)
                yield "", news_html(t("sources.added_server", lang, title=spec.title, kind=kind))
            else:
                yield "", news_html(t("sources.added", lang, title=spec.title, size=spec.disk))


def build_source() -> SourceParts:
    """Draws the choice of source."""
    with gr.Column(elem_id="sources", elem_classes="sheet"):
        gr.Markdown(label("sources.title"), elem_classes="section")  # type: ignore[arg-type]
        options = [(label(f"sources.{one}"), one) for one in CHOICES]
        choice = gr.Radio(options, value="auto", label=label("sources.choice"), show_label=False, elem_id="source")
        with gr.Row(visible=False, elem_id="mirror-row") as row:
            mirror = gr.Textbox(
                label=label("sources.address"), show_label=False, container=False, placeholder="https://hf-mirror.com",
                max_lines=1, elem_id="mirror",
            )  # fmt: skip
            use = gr.Button(label("sources.use"), size="sm", scale=0, min_width=96)
        notice = gr.HTML(elem_id="source-notice")
    return SourceParts(choice, row, mirror, use, notice)


def build_add() -> AddParts:
    """Draws the box that adds a model."""
    with gr.Column(elem_id="add", elem_classes="sheet"):
        gr.Markdown(label("sources.add_title"), elem_classes="section")  # type: ignore[arg-type]
        gr.Markdown(label("sources.add_hint"), elem_classes="facts")  # type: ignore[arg-type]
        with gr.Row():
            name = gr.Textbox(
                label=label("sources.add_name"), show_label=False, container=False,
                placeholder=label("sources.add_example"), max_lines=1, elem_id="add-name",
            )  # fmt: skip
            add = gr.Button(label("sources.add"), size="sm", scale=0, min_width=96, elem_id="add-button")
        news = gr.HTML(elem_id="add-news")
    return AddParts(name, add, news)


def wire(desk: Desk, source: SourceParts, adding: AddParts, demo: gr.Blocks) -> Any:
    """Connects both; the event after which the list of models may be another."""
    events = SourceEvents(desk)
    demo.load(events.now, None, [source.choice, source.row, source.mirror, source.notice], **QUIET)
    source.choice.input(events.choose, [source.choice, source.mirror], [source.row, source.notice], **QUIET)
    gr.on([source.use.click, source.mirror.submit], events.use_mirror, [source.mirror], source.notice, **QUIET)
    asked = [adding.add.click, adding.name.submit]
    return gr.on(asked, events.add, [adding.name], [adding.name, adding.news], **QUIET)
