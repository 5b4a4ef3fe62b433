"""The page as a whole: tabs, look and guards; and serving it. Wired and ended by launch.py."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from interface import chat, guards, models, opening, preferences, proxied, separation, sidebar, vision
from interface.api.keys import Keys
from interface.api.routes import Api
from interface.archive import MAX_FILE
from interface.desk import QUIET, Desk, label
from interface.door import Door, Reception
from interface.entrance import Entrance
from interface.guards import BodyLimit
from interface.i18n import t
from interface.reach import address, bracketed
from interface.theme import CSS, head, theme, translations
from interface.vision_events import SAMPLES_FOLDER

MAX_REQUEST = 16 * 2**20
"""Bytes of one that brings no file: of what the page sends with a click, most is the text of a conversation."""
CACHE_SECONDS = 24 * 3600
"""Uploads as they came, metadata and all, are deleted after a day; what was asked about is kept as the gate made it."""

# The address names the open tab, too, unless it is the first. That one Gradio selects by itself when a page begins,
# before the one that the address names: then it stays as it is.
TO_ADDRESS = """() => {
  const url = new URL(location.href), tab = "%s", isBeginning = !desk.tab;
  desk.tab = tab;
  if (isBeginning && tab === "chat") return;
  tab === "chat" ? url.searchParams.delete("tab") : url.searchParams.set("tab", tab);
  history.replaceState(history.state, "", url);
  document.dispatchEvent(new Event("address"));
}"""
FROM_ADDRESS = """() => [new URLSearchParams(location.search).get("tab") || ""]"""


def build(desk: Desk, login: bool = False) -> gr.Blocks:
    """The app's Blocks, for this desk; `login` says whether there is one to sign out from."""
    title = " · ".join(t("app.name", lang) for lang in ("zh", "en"))
    with gr.Blocks(
        title=title,
        analytics_enabled=False,
        fill_height=True,
        fill_width=True,
        delete_cache=(3600, CACHE_SECONDS),
    ) as demo:
        side = sidebar.build(desk)
        chosen = preferences.build(desk, login)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(label("chat.tab"), id="chat", elem_id="chat-tab", scale=1) as chat_tab:
                talk = chat.build(desk, demo, side)
            with gr.Tab(label("vision.tab"), id="images", elem_id="image-tab", scale=1) as image_tab:
                image_talk = vision.build(desk, demo, image_tab, side)
            with gr.Tab(label("models.tab"), id="models", elem_id="models-tab") as models_tab:
                shelf = models.build(desk)
        models.wire(desk, shelf, talk, image_talk, models_tab, [chat_tab, image_tab], demo, FROM_ADDRESS)
        preferences.wire(chosen, [talk, image_talk], demo)
        sidebar.wire(desk, side, demo, tabs)
        for tab in (chat_tab, image_tab, models_tab):
            tab.select(None, None, None, js=TO_ADDRESS % tab.id, **QUIET)
        demo.load(opened_tab, gr.Textbox(visible=False), tabs, js=FROM_ADDRESS, **QUIET)
    return demo


def opened_tab(named: str) -> Any:
    """-> tabs: the one that the address names. Who has gone to another by now stays there."""
    return gr.Tabs(selected=named) if named in ("images", "models") else gr.skip()


def serve(desk: Desk, demo: gr.Blocks, port: int, entrance: Entrance) -> str:
    """Starts answering HTTP on `port` to those whom `entrance` lets in, and returns the address; comes back at once."""
    server, lang = desk.config.server, desk.config.interface.lang
    reception = Reception(entrance.logins, server, lang, port)
    # What the gates are too strict for, they word themselves.
    largest_file = max(4 * desk.config.uploads.max_bytes, 2 * MAX_FILE)
    demo.launch(
        server_name=bracketed(server.host),
        server_port=port,
        root_path=server.root_path.rstrip("/") or None,  # GRADIO_ROOT_PATH, then
        prevent_thread_lock=True,
        quiet=True,
        share=False,  # see share.py
        max_threads=100,  # each page that follows an answer holds one
        max_file_size=largest_file,
        allowed_paths=[str(desk.uploads.folder), str(SAMPLES_FOLDER)],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        theme=theme(),
        css_paths=CSS,
        head=head(),
        favicon_path=str(opening.ICON),
        pwa=True,
        i18n=translations(),
        app_kwargs={
            "middleware": [
                proxied.middleware(),
                *guards.middleware(server.host, server.allow_hosts, server.share),
                # The API counts by itself: its refusals are objects.
                Middleware(
                    BodyLimit, limits={"": MAX_REQUEST, "/gradio_api/upload": largest_file + 2**20, "/v1/": None}
                ),
                Middleware(Door, reception=reception),
                opening.middleware(lang),
                separation.middleware(desk.files),
            ],
            "routes": [*opening.routes(lang), *Api(desk, keys=Keys(entrance.keys)).routes()],
        },
    )
    reception.started = True
    return address(server.host, port)
