"""How the models are at this moment: what library, runner, downloads and loads say, put together for any tab."""

from __future__ import annotations

from typing import Literal

from configs.schema import ModelKind, ModelSpec, Remote
from engines.disk import HUB_KINDS
from engines.errors import AppError
from engines.job import Loading
from engines.memory import MemoryPlan, Resident
from interface.desk import Desk
from interface.i18n import Lang, t
from interface.messages import explain
from interface.plans import news_html, progress_html, state_html
from interface.render import notice_html

State = Literal["absent", "downloading", "paused", "ready", "loading", "loaded"]


class Shelf:
    """One for the app; it keeps nothing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def state(self, model: str) -> State:
        status = self._desk.runner.status()
        download = self._desk.downloads.of(model)
        if download is not None and download.running:
            return "downloading"
        if status.loading == model or self._desk.loads.loading(model):
            return "loading"
        if any(one.model == model for one in status.engaged):
            return "loaded"
        if self._desk.library.folder(model) is not None:
            return "ready"
        return "paused" if self._desk.downloads.paused(model) is not None else "absent"

    def how(self, model: str, lang: Lang) -> str:
        """Its state as HTML, with how far a paused download is."""
        state, remote = self.state(model), self._desk.library.spec(model).remote
        if remote is not None and state in ("ready", "loaded") and not self._desk.library.fake:
            return state_html(self._reached(remote), lang)
        partial = self._desk.downloads.paused(model) if state == "paused" else None
        return state_html(state, lang, 100 * partial.done // max(partial.total, 1) if partial is not None else None)

    def servers(self, remote: Remote, lang: Lang) -> str:
        """Which of a model's servers answer, in words."""
        words = {True: "models.server_answers", False: "models.server_silent", None: "models.server_asked"}
        return " · ".join(t(words[one.answers], lang, server=one.server) for one in self._desk.library.reach.of(remote))

    def _reached(self, remote: Remote) -> Literal["reachable", "unreachable", "asking"]:
        answers = [one.answers for one in self._desk.library.reach.of(remote)]
        return "reachable" if True in answers else "asking" if None in answers else "unreachable"

    def known(self, model: str, kind: ModelKind) -> str:
        """The model, or the one that a tab opens with, if another page has taken it off the list."""
        return model if model in self._desk.library.catalogue else self._desk.first_model(kind)

    def pausable(self, model: str) -> bool:
        """Whether its download would go on where it is: pip's begins anew."""
        download = self._desk.downloads.of(model)
        at = download.progress if download is not None else None
        return at is not None and at.source in HUB_KINDS and at.stage in ("downloading", "verifying")

    @property
    def busy(self) -> bool:
        """Whether anything is under way that a page should go on looking at."""
        status = self._desk.runner.status()
        return self._desk.downloads.running or self._desk.loads.busy or status.loading is not None

    def residents(self) -> list[Resident]:
        return self._desk.runner.status().residents

    def plan(self, spec: ModelSpec) -> MemoryPlan:
        """The plan that it was loaded by, or, if it is not loaded, what the guard says now."""
        loaded = (one.plan for one in self._desk.runner.status().engaged if one.model == spec.id)
        return next(loaded, None) or self._desk.library.plan(spec.id, self.residents())

    def measured(self, model: str) -> int:
        """Bytes that it holds, 0 if it is not loaded."""
        return next((one.bytes for one in self.residents() if one.model == model), 0)

    def beside(self, model: str) -> int:
        """Bytes that other models of ours hold."""
        return sum(one.bytes for one in self.residents() if one.model != model)

    def news(self, model: str, lang: Lang) -> str:
        """How its download or its load goes, or why it failed."""
        download = self._desk.downloads.of(model)
        if download is not None and download.running:
            return progress_html(download.progress, lang)
        job = self._desk.loads.of(model)
        at = job.now_at if job is not None else None
        if isinstance(at, Loading):
            title = self._desk.library.spec(model).title
            stage = t(f"stage.{at.stage}", lang)
            return news_html(t("chat.loading", lang, title=title, stage=stage, seconds=at.seconds))
        if isinstance(at, AppError) and self.state(model) != "loaded":
            return notice_html(explain(at, lang))
        if download is not None and download.error is not None:
            return notice_html(explain(download.error, lang))
        return ""


class Buttons:
    """What a model's buttons do, on its card and in the image tab's panel. How it went is shown from the shelf."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._shelf = desk, Shelf(desk)

    def download(self, model: str) -> None:
        self._desk.downloads.start(model)

    def pause(self, model: str) -> None:
        self._desk.downloads.pause(model)

    def cancel(self, model: str) -> None:
        self._desk.downloads.cancel(model)

    def delete(self, model: str) -> None:
        """Removes its files, unless it is in use: then the card goes on saying so."""
        if self._shelf.state(model) in ("ready", "paused", "absent"):
            self._desk.downloads.delete(model)

    def remove(self, model: str) -> None:
        """Takes an added model off the list, and deletes what was downloaded of it, unless it is in use.

        One that a server elsewhere answers for holds nothing here that could be in use.
        """
        if self._desk.library.spec(model).remote is not None:
            self._desk.loads.unload(model)
            self._desk.library.remove(model)
        elif self._shelf.state(model) in ("ready", "paused", "absent"):
            self._desk.library.remove(model)

    def load(self, model: str) -> None:
        """Queues it, if the guard and the queue allow; what must go for it goes."""
        self._desk.loads.load(model)

    def unload(self, model: str) -> None:
        self._desk.loads.unload(model)
