"""A card for each model on the models tab: what it is, how it is, and what can be done with it.

The list is one piece of HTML, for models come and go; Gradio changes it in place, so that a button keeps the focus.
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from configs.schema import ModelSpec
from engines import disk
from interface.i18n import Lang, t
from interface.plans import card_html, plan_html, remote_card_html
from interface.shelf import Buttons, State

PRIMARY = ("download", "resume", "load")
# Who says no to a button's question has pressed nothing.
PRESSED = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button || button.disabled || (button.dataset.sure && !confirm(button.dataset.sure))) return;
  trigger('click', { what: button.dataset.do, model: button.dataset.model });
});"""


class CardEvents(Buttons):
    """What cards show and do. One for the app; it keeps nothing about a page."""

    def cards(self, request: gr.Request) -> list[str]:
        """-> the disk's line, the cards."""
        lang = self._desk.lang(request)
        return [self.disk(lang), "".join(self.card(spec, lang) for spec in self._desk.library.catalogue.models)]

    def press(self, request: gr.Request, event: gr.EventData) -> list[str]:
        """-> the disk's line, the cards. Does what a card's button says."""
        pressed: dict[str, Any] = event._data or {}
        what, model = pressed.get("what"), str(pressed.get("model"))
        does = {
            "download": self.download, "resume": self.download, "pause": self.pause, "cancel": self.cancel,
            "load": self.load, "unload": self.unload, "delete": self.delete, "remove": self.remove,
        }  # fmt: skip
        if what in does and model in self._desk.library.catalogue:  # another page may have taken it off the list
            does[what](model)
        return self.cards(request)

    def card(self, spec: ModelSpec, lang: Lang) -> str:
        shelf, model, config = self._shelf, spec.id, self._desk.config
        state = shelf.state(model)
        plan = plan_html(shelf.plan(spec), shelf.measured(model), shelf.beside(model), lang)
        taken = 0 if self._desk.library.fake else disk.held(spec, config)
        folder = self._desk.library.folder(model) if state in ("ready", "loaded") else None
        own = folder if folder not in (None, disk.home(config) / model, config.data) else None
        if spec.remote is not None:
            body = remote_card_html(
                spec,
                spec.remote,
                shelf.how(model, lang),
                shelf.servers(spec.remote, lang),
                plan,
                shelf.news(model, lang),
                lang,
            )
        else:
            body = card_html(spec, shelf.how(model, lang), plan, shelf.news(model, lang), taken, own, lang)
        buttons = self._buttons(spec, state, taken, lang)
        return f'<div class="card"><div id="card-{model}">{body}</div><div class="card-buttons">{buttons}</div></div>'

    def disk(self, lang: Lang) -> str:
        """How much all models take, and what is left of the disk."""
        models, config = self._desk.library.catalogue.models, self._desk.config
        taken = sum(disk.held(spec, config) for spec in models)
        return f'<div class="facts">{t("models.disk_all", lang, taken=taken, free=disk.free(config))}</div>'

    def listed(self) -> str:
        """The models' ids: when they change, a page's pickers change."""
        return " ".join(self._desk.library.catalogue.ids)

    # -- within -----------------------------------------------------------------------------------------------------

    def _buttons(self, spec: ModelSpec, state: State, taken: int, lang: Lang) -> str:
        """All of them, those that make no sense now hidden: so each keeps its place, and the focus."""
        loaded, settled = state in ("loaded", "loading"), state in ("ready", "paused", "absent")
        fetched = any(source.kind != "local" for source in spec.sources)
        here = spec.remote is None
        seen = {
            "download": state == "absent" and fetched,
            "resume": state == "paused",
            "pause": state == "downloading" and self._shelf.pausable(spec.id),
            "cancel": state in ("downloading", "paused"),
            "load": state == "ready" and here,
            "unload": state == "loaded" and here,
            "delete": taken > 0 and fetched and (state == "ready" or loaded),
            "remove": spec.added and (settled or not here),
        }
        sure = "models.sure_remove" if here else "models.sure_remove_server"
        asked = {
            "delete": t("models.sure_delete", lang, title=spec.title, size=taken),
            "remove": t(sure, lang, title=spec.title),
        }
        words = {name: t(f"models.{name}", lang) for name in seen}
        words["delete"] = t("models.delete_loaded" if loaded else "models.delete", lang)
        return "".join(
            f'<button type="button" class="{"primary" if name in PRIMARY else "secondary"}" data-do="{name}"'
            f' data-model="{spec.id}" data-sure="{html.escape(asked.get(name, ""))}"'
            f"{' disabled' if name == 'delete' and loaded else ''}{'' if shown else ' hidden'}>{words[name]}</button>"
            for name, shown in seen.items()
        )
