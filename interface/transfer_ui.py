"""Buttons that take conversations out of the app and into it: all of them, or the one that is open."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from configs.schema import ModelSpec
from engines.errors import AppError
from interface import transcript
from interface.desk import QUIET, Desk, label
from interface.history import Store
from interface.i18n import Lang, t
from interface.messages import explain
from interface.render import notice_html
from interface.transfer import export_json, export_markdown, import_file, tidy

KEPT = 24 * 3600
"""Seconds that a made file stays, for a download that starts late."""
LISTED = 10
DOWNLOAD = """async (made) => {
  if (!made) return;
  const link = document.createElement("a");
  link.href = made.url;
  link.download = made.orig_name;
  link.click();
}"""


def build(desk: Desk) -> None:
    """Draws and wires what concerns all conversations, wherever it is called."""
    events = TransferEvents(desk)
    said = gr.HTML(elem_id="transfer-said", elem_classes="drawer-said", render=False)
    _draw("export-all", "all", events, [], said)
    # No file types: Gradio would refuse others by their name and in English.
    chosen = gr.UploadButton(label("export.import"), size="sm", file_count="single", elem_id="import")
    said.render()
    chosen.upload(events.take, [chosen], [said], **QUIET)


def build_one(desk: Desk, conversation: gr.Textbox, prefix: str) -> None:
    """Draws and wires what concerns the open conversation, whose id is in `conversation`."""
    said = gr.HTML(elem_id=f"{prefix}export-said", elem_classes="drawer-said", render=False)
    _draw(f"{prefix}export", "this", TransferEvents(desk), [conversation], said)
    said.render()


def _draw(id: str, which: str, events: TransferEvents, asked: list[Any], said: gr.HTML) -> None:
    with gr.Row(elem_classes="drawer-buttons"):
        for form, make in (("markdown", events.markdown), ("json", events.json)):
            button = gr.Button(label(f"export.{which}_{form}"), size="sm", min_width=80, elem_id=f"{id}-{form}")
            made = gr.File(visible=False)
            button.click(make, asked, [made, said], **QUIET).then(None, made, None, js=DOWNLOAD, **QUIET)


class TransferEvents:
    """One for each place; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def markdown(self, request: gr.Request, conversation: str | None = None) -> tuple[str | None, str]:
        """-> file, what is said."""
        desk, lang = self._desk.of(request), self._desk.lang(request)

        def make(ids: Sequence[str], folder: Path) -> Path:
            return export_markdown(desk.store, ids, folder, self._title, lang)

        return self._made(make, conversation, desk.store, lang)

    def json(self, request: gr.Request, conversation: str | None = None) -> tuple[str | None, str]:
        """-> file, what is said."""
        desk = self._desk.of(request)

        def make(ids: Sequence[str], folder: Path) -> Path:
            return export_json(desk.store, ids, folder)

        return self._made(make, conversation, desk.store, self._desk.lang(request))

    def take(self, request: gr.Request, path: str) -> str:
        """-> what is said: links to what was imported, or why nothing was."""
        lang, store = self._desk.lang(request), self._desk.of(request).store
        try:
            ids = import_file(store, self._desk.uploads, path, self._choose)
        except AppError as error:
            return notice_html(explain(error, lang))
        links = []
        for id in ids[:LISTED]:
            one = store.conversation(id)
            if one is not None:
                vision = self._desk.library.spec(one.model).kind == "vision"
                address = f"?tab=images&i={id}" if vision else f"?c={id}"
                links.append(f'<li><a href="{address}">{html.escape(one.title or "…")}</a></li>')
        words = html.escape(t("export.imported", lang, count=len(ids)))
        return f'<div role="status">{words}</div><ul>{"".join(links)}</ul>'

    def _made(
        self, make: Callable[[Sequence[str], Path], Path], conversation: str | None, store: Store, lang: Lang
    ) -> tuple[str | None, str]:
        """All conversations for None, nothing for ""."""
        exports = self._desk.config.data / "uploads" / "exports"
        try:
            if conversation is None:
                ids = transcript.ids(store)
            else:
                ids = [conversation] if store.conversation(conversation) else []
            if not ids:
                return None, f'<div role="status">{html.escape(t("export.nothing", lang))}</div>'
            exports.mkdir(parents=True, exist_ok=True)
            tidy(exports, KEPT)
            made = make(ids, Path(tempfile.mkdtemp(dir=exports)))
            self._desk.files.lend(store.owner, made)
            return str(made), ""
        except AppError as error:
            return None, notice_html(explain(error, lang))

    def _title(self, model: str) -> str:
        catalogue = self._desk.library.catalogue
        return catalogue[model].title if model in catalogue else model

    def _choose(self, model: str, images: bool) -> ModelSpec:
        """The model that a conversation names if it is known, or the one that its tab opens with."""
        catalogue = self._desk.library.catalogue
        known = model in catalogue
        return catalogue[model] if known else catalogue[self._desk.first_model("vision" if images else "text")]
