"""What the chat tab offers besides the chosen model: a real one in place of the demo, or the vision model that is here.

The vision models' language part is a chat model of its own; where both do not fit, it can answer in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from configs.schema import Catalogue, ModelSpec
from engines import disk
from engines.probe import device_memory
from interface.desk import Desk
from interface.i18n import Lang, t
from interface.messages import plan_notes
from interface.plans import first_run_html, offer_html
from interface.settings import choices, usual_settings
from interface.shelf import Shelf

ASSUMED_SPEED = 10 * 2**20
"""Bytes per second: said with the time that it gives, where nothing has been measured."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model to be offered in the place of the chosen one; `swap` where making room for that is the other choice.

    None is for a machine on which no other model fits.
    """

    model: ModelSpec | None
    stands_in: bool = False
    swap: bool = False


class Offers:
    """One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._shelf = desk, Shelf(desk)

    def shown(self, chosen: str, lang: Lang) -> list[Any]:
        """-> offer, its button, the swap's button, the one that dismisses it."""
        offer = self.of(chosen)
        if offer is None:
            return [gr.update(visible=False)] * 4
        spec = offer.model
        news = self._shelf.news(spec.id, lang) if spec is not None else ""
        body = (
            offer_html(self._stand_in(chosen, spec, offer.swap, lang), news, lang) if offer.stands_in and spec else ""
        )
        return [
            gr.update(visible=True, value=body or first_run_html(self._first_run(spec, lang), news, lang)),
            gr.update(visible=False) if spec is None else self._take_button(spec, offer.stands_in, lang),
            gr.update(visible=offer.swap, value=t("offer.swap", lang)),
            gr.update(visible=not offer.stands_in, value=t("first.dismiss", lang)),
        ]

    def take(self, chosen: str) -> tuple[Any, ...]:
        """-> model, *its settings: the offered one if it is here; if not, its download begins."""
        offer = self.of(chosen)
        if offer is None or offer.model is None:
            return (gr.skip(),) * 7
        if self._desk.library.folder(offer.model.id) is not None:
            picker = gr.update(choices=choices(self._desk, "text", offer.model), value=offer.model.id)
            return picker, *usual_settings(offer.model)
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
        if not spec.demo or self._desk.library.preferred.now.welcomed:
            return None
        real = (
            one for one in self._desk.library.catalogue.models if one.kind == "text" and not one.demo and not one.remote
        )
        found = next((one for one in real if self._shelf.plan(one).verdict != "refuse"), None)
        return Offer(found)

    # -- within -----------------------------------------------------------------------------------------------------

    def _take_button(self, spec: ModelSpec, stands_in: bool, lang: Lang) -> Any:
        state = self._shelf.state(spec.id)
        if stands_in:
            return gr.update(visible=True, value=t("offer.answer_with_it", lang))
        if state in ("absent", "paused"):
            key = "models.download_size" if state == "absent" else "models.resume_size"
            return gr.update(visible=True, value=t(key, lang, title=spec.title, size=spec.download))
        return gr.update(visible=state != "downloading", value=t("models.use", lang))

    def _first_run(self, spec: ModelSpec | None, lang: Lang) -> list[list[str]]:
        """What this machine has, what is recommended for it, and what getting that takes."""
        device, free = (
            device_memory(frozenset(one.pid for one in self._shelf.residents())),
            disk.free(self._desk.config),
        )
        machine = [t("first.machine", lang, name=device.name, total=device.total, free=device.free)]
        if device.kind == "cuda":
            machine.append(t("first.host", lang, total=device.host_total, free=device.host_free))
        machine.append(t("first.disk", lang, free=free))
        if spec is None:
            return [machine, [t("first.nothing_fits", lang)]]
        parts = [
            machine,
            [t("models.offer", lang, title=spec.title), *plan_notes(self._shelf.plan(spec).reasons, lang)],
        ]
        if self._shelf.state(spec.id) == "absent":
            measured = self._desk.library.preferred.now.speed
            speed = measured or ASSUMED_SPEED
            key = "first.takes_measured" if measured else "first.takes_assumed"
            parts.append([t(key, lang, size=spec.download, speed=speed, seconds=spec.download / speed)])
            if free < spec.download:
                parts[-1].append(t("first.disk_short", lang, missing=spec.download - free))
        return parts

    def _stand_in(self, chosen: str, model: ModelSpec, swap: bool, lang: Lang) -> list[str]:
        library = self._desk.library
        language = language_part(model, library.catalogue)
        part = language.title if language is not None else ""
        words = [t("offer.stand_in", lang, title=model.title, language=part)]
        if swap:
            there, back = library.load_seconds(chosen), library.load_seconds(model.id)
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
    mine = vision.shape
    for spec in catalogue.models:
        theirs = spec.architecture
        if theirs is None or spec.kind != "text":
            continue
        if (mine.layers, mine.hidden, mine.intermediate, mine.heads, mine.kv_heads) == (
            theirs.layers, theirs.hidden, theirs.intermediate, theirs.heads, theirs.kv_heads,
        ):  # fmt: skip
            return spec
    return None
