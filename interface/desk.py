"""What the pages work with, in one value; and the few questions that every page asks of a request."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from configs.schema import AppConfig, ModelKind
from engines.library import Library
from engines.probe import looked_at, process_memory
from engines.runner import Runner
from engines.watch import MemoryWatch
from interface.answers import Answers, Growing
from interface.downloads import Downloads
from interface.engine_room import EngineRoom
from interface.history import History, Store
from interface.i18n import Lang, lang_of
from interface.index import Index, purge
from interface.loads import Loads
from interface.logins import login_of
from interface.separation import Files
from interface.uploads import Uploads

LANG_COOKIE = "shusheng_lang"
ZONE_COOKIE = "shusheng_zone"

QUIET: dict[str, Any] = {
    "api_visibility": "private", "show_progress": "hidden", "show_progress_on": [], "concurrency_limit": None,
}  # fmt: skip
"""How every event of the page is wired: no API of its own, no spinner, and no queue but the runner's.

Whatever an event shows progress on, Gradio's page copies whole with each step of every event, hidden or not.
"""


@dataclass(frozen=True, slots=True)
class Desk:
    """The app's parts, wired by launch.py. What logins do not share is on the `LoginDesk` of each."""

    config: AppConfig
    library: Library
    runner: Runner
    history: History
    growing: Growing
    downloads: Downloads
    loads: Loads
    uploads: Uploads
    files: Files
    memory: MemoryWatch

    @classmethod
    def open(cls, library: Library, room: EngineRoom | None = None) -> Desk:
        """The parts of an app that works on `library`'s data folder, with the engines of `room` if that is open."""
        config, room = library.config, room or EngineRoom.open(library)
        runner = room.runner
        images = config.data / "images"
        history = History(config.data / "conversations.sqlite3", images)
        history.settle()
        purge(history)
        uploads = Uploads(config.uploads, config.data / "uploads", images)
        files = Files(history)
        memory = MemoryWatch(runner.status, looked_at, process_memory)
        return cls(config, library, runner, history, Growing(), room.downloads, room.loads, uploads, files, memory)

    def of(self, request: Any) -> LoginDesk:
        """The desk of the login that a request came with."""
        store = self.history.of(login_of(request))
        shared = {one.name: getattr(self, one.name) for one in fields(Desk)}
        return LoginDesk(**shared, store=store, index=Index(store), answers=Answers(self.runner, store, self.growing))

    def first_model(self, kind: ModelKind) -> str:
        """The model that a tab opens with: the configured one if it is of that kind, or the catalogue's first."""
        wanted = self.library.spec(self.config.models.model)
        of_kind = (spec for spec in self.library.catalogue.models if spec.kind == kind)
        return wanted.id if wanted.kind == kind else next(of_kind).id

    def close(self) -> None:
        """Ends everything: answers are cut and written, no process stays."""
        self.downloads.close()
        self.memory.close()
        self.runner.close()
        self.growing.close()
        self.history.close()

    def lang(self, request: gr.Request | None) -> Lang:
        """The reader's language: as configured, as the page was shown, or as the browser asks for."""
        if self.config.interface.lang != "auto":
            return lang_of(self.config.interface.lang)
        if request is None:
            return "en"
        return lang_of(request.cookies.get(LANG_COOKIE) or request.headers.get("accept-language"))


@dataclass(frozen=True, slots=True)
class LoginDesk(Desk):
    """The same, and what is one login's own."""

    store: Store
    index: Index
    answers: Answers


def label(key: str) -> gr.i18n.I18nData:
    """A sentence that the browser puts in, in its language, wherever Gradio takes a label."""
    return gr.I18n()(key.replace(".", "_"))
