"""What the chat tab offers besides the chosen model: a real one in place of the demo, or the vision model that is here.

The vision models' language part is a chat model of its own; where both do not fit, it can answer in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from configs.schema import Catalogue, ModelSpec
from interface.chat_events import choices, usual_settings
from interface.desk import Desk
from interface.i18n import Lang, t
from interface.messages import plan_notes
from interface.plans import offer_html
from interface.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Offer:
    """A model to be offered in the place of the chosen one; `swap` where making room for that is the other choice."""

    model: ModelSpec
    stands_in: bool = False
    swap: bool = False


class Offers:
    """One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._shelf = desk, Shelf(desk)

    def shown(self, chosen: str, lang: Lang) -> list[Any]:
        """-> offer, its button, the swap's button."""
        offer = self.of(chosen)
        if offer is None:
            return [gr.update(visible=False)] * 3
        words = self._stand_in(chosen, offer, lang) if offer.stands_in else self._better(offer, lang)
        state, spec = self._shelf.state(offer.model.id), offer.model
        if offer.stands_in:
            button = gr.update(visible=True, value=t("offer.answer_with_it", lang))
        elif state == "absent":
            button = gr.update(
                visible=True, value=t("models.download_size", lang, title=spec.title, size=spec.download)
            )
        else:
            button = gr.update(visible=state != "downloading", value=t("models.use", lang))
        news = self._shelf.news(spec.id, lang)
        return [
            gr.update(visible=True, value=offer_html(words, news, lang)),
            button,
            gr.update(visible=offer.swap, value=t("offer.swap", lang)),
        ]

    def take(self, chosen: str) -> tuple[Any, ...]:
        """-> model, *its settings: the offered one if it is here; if not, its download begins."""
        offer = self.of(chosen)
        if offer is not None and self._desk.library.folder(offer.model.id) is not None:
            picker = gr.update(choices=choices(self._desk, "text", offer.model), value=offer.model.id)
            return picker, *usual_settings(offer.model)
        if offer is not None:
            self._desk.downloads.start(offer.model.id)
        return (gr.skip(),) * 7

    def swap(self, chosen: str) -> None:
        """Loads the chosen model; what must go for it goes."""
        self._desk.loads.load(chosen)

    def of(self, chosen: str) -> Offer | None:
        spec = self._desk.library.spec(chosen)
        if spec.kind == "text" and self._shelf.state(chosen) in ("ready", "absent"):
            for one in self._shelf.residents():
                resident = self._desk.library.spec(one.model)
                if resident.kind == "vision" and language_part(resident, self._desk.library.catalogue) is not None:
                    verdict = self._shelf.plan(spec).verdict
                    if verdict != "load":
                        here = self._shelf.state(chosen) == "ready"
                        return Offer(resident, stands_in=True, swap=here and verdict == "unload_first")
        if not spec.demo:
            return None
        real = (one for one in self._desk.library.catalogue.models if one.kind == "text" and not one.demo)
        found = next((one for one in real if self._shelf.plan(one).verdict != "refuse"), None)
        return Offer(found) if found is not None else None

    # -- within -----------------------------------------------------------------------------------------------------

    def _better(self, offer: Offer, lang: Lang) -> list[str]:
        plan = self._shelf.plan(offer.model)
        return [t("models.offer", lang, title=offer.model.title), *plan_notes(plan.reasons, lang)]

    def _stand_in(self, chosen: str, offer: Offer, lang: Lang) -> list[str]:
        library = self._desk.library
        language = language_part(offer.model, library.catalogue)
        part = language.title if language is not None else ""
        words = [t("offer.stand_in", lang, title=offer.model.title, language=part)]
        if offer.swap:
            there, back = library.load_seconds(chosen), library.load_seconds(offer.model.id)
            title = library.spec(chosen).title
            if there is None:
                words.append(t("offer.swap_unknown", lang, title=title))
            elif back is None:
                words.append(t("offer.swap_there", lang, title=title, there=there))
            else:
                words.append(t("offer.swap_both", lang, title=title, there=there, back=back))
        return words


def language_part(vision: ModelSpec, catalogue: Catalogue) -> ModelSpec | None:
    """The chat model of the catalogue that a vision model's decoder is: the one of the same geometry."""
    mine = vision.architecture
    for spec in catalogue.models:
        theirs = spec.architecture
        if spec.kind == "text" and (mine.layers, mine.hidden, mine.intermediate, mine.heads, mine.kv_heads) == (
            theirs.layers, theirs.hidden, theirs.intermediate, theirs.heads, theirs.kv_heads,
        ):  # fmt: skip
            return spec
    return None
