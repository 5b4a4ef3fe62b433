"""The sidebar: every conversation of both tabs by date, searched, opened, renamed, pinned and deleted.

Its list is HTML drawn here; sidebar.js says what was done on it, and chat.py opens and leaves conversations.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import gradio as gr

from configs.schema import ModelKind
from engines.errors import AppError
from interface import transfer_ui
from interface.desk import QUIET, ZONE_COOKIE, Desk, label
from interface.i18n import Lang, t
from interface.index import Entry, excerpt, marked, words_of
from interface.messages import explain
from interface.render import notice_html

SCRIPT = Path(__file__).with_name("sidebar.js")
PAGE = 60
"""Conversations at a time; more are shown when asked for."""

TICK = 4.0
"""Seconds between looks for what other pages have changed."""

UNDO = 10.0
"""Seconds for which a deletion can be taken back."""

# On a wide page it is open unless it was closed there; on a narrow one, where it lies over the page, only when called.
REMEMBERED = """() => ({
  __type__: "update", open: innerWidth >= 900 && localStorage.getItem("shusheng_sidebar") !== "closed",
})"""
REMEMBER = """() => { if (innerWidth >= 900) localStorage.setItem("shusheng_sidebar", "%s"); }"""
NEW = """() => { document.dispatchEvent(new Event("new-conversation")); }"""
TO_TAB = """() => ({ __type__: "update", selected: "%s" })"""


@dataclass(frozen=True, slots=True)
class Side:
    """The sidebar's components."""

    drawer: gr.Sidebar
    new: gr.Button
    search: gr.Textbox
    list: gr.HTML
    limit: gr.State

    def opened(self, kind: ModelKind) -> Any:
        """A conversation of this kind is to be shown; sidebar.js has put its id where chat.py's script finds it."""
        return getattr(self.list, f"open_{kind}")

    def overtaken(self, kind: ModelKind) -> Any:
        """A tab may show what it was left with: two streams have drawn into it at the same time."""
        return getattr(self.list, f"overtaken_{kind}")

    def left(self, kind: ModelKind) -> Any:
        """A tab is to begin a new conversation."""
        return getattr(self.list, f"leave_{kind}")


class SidebarEvents:
    """What the sidebar does. One for the app; it keeps nothing about a page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def refresh(self, request: gr.Request, query: str, limit: int) -> str:
        """-> the list."""
        desk, lang = self._desk.of(request), self._desk.lang(request)
        try:
            shown = desk.index.search(query, limit + 1)
            gone = desk.index.lately_deleted(time.time() - UNDO)
        except AppError as error:
            return notice_html(explain(error, lang))
        now = datetime.now(zone_of(request))
        view = View(lang, now, words_of(query), desk.answers.growing())
        return view.page(shown[:limit], gone, has_more=len(shown) > limit)

    def act(self, request: gr.Request, done: gr.EventData, query: str, limit: int) -> str:
        """-> the list."""
        what, id = str(done.what), str(done.id)
        desk = self._desk.of(request)
        index = desk.index
        try:
            match what:
                case "rename":
                    index.rename(id, str(done.title))
                case "pin" | "unpin":
                    index.pin(id, what == "pin")
                case "delete":
                    if (answer := desk.answers.of(id)) is not None:
                        answer.job.cancel()
                    index.delete(id)
                case "restore":
                    index.restore(id)
        except AppError as error:
            notice = notice_html(explain(error, self._desk.lang(request)))
            return notice + self.refresh(request, query, limit)
        return self.refresh(request, query, limit)

    def more(self, request: gr.Request, query: str, limit: int) -> tuple[str, int]:
        """-> the list, its limit."""
        return self.refresh(request, query, limit + PAGE), limit + PAGE

    def searched(self, request: gr.Request, query: str) -> tuple[str, int]:
        """-> the list, its limit."""
        return self.refresh(request, query, PAGE), PAGE


@dataclass(frozen=True, slots=True)
class View:
    """How conversations are shown to one reader: language, the time there, what was looked for, what is growing."""

    lang: Lang
    now: datetime
    words: Sequence[str] = ()
    growing: frozenset[str] = frozenset()

    def page(self, entries: Sequence[Entry], gone: Entry | None = None, has_more: bool = False) -> str:
        """The whole list, with the way back from a deletion above it."""
        parts = [self._gone(gone)] if gone else []
        for heading, group in groupby(entries, self.section):
            parts.append(f"<h3>{html.escape(heading)}</h3><ul>{''.join(map(self._entry, group))}</ul>")
        if not entries:
            parts.append(f'<p class="none">{self._t("none_found" if self.words else "none")}</p>')
        if has_more:
            parts.append(f'<button class="more" data-do="more" data-key="more">{self._t("more")}</button>')
        return f'<div class="list" data-toggle="{self._t("toggle")}">{"".join(parts)}</div>'

    def section(self, one: Entry) -> str:
        """The heading that a conversation stands under."""
        if one.pinned:
            return t("history.pinned", self.lang)
        then = datetime.fromtimestamp(one.updated, self.now.tzinfo)
        days = (self.now.date() - then.date()).days
        for most, name in ((0, "today"), (1, "yesterday"), (7, "week"), (30, "month")):
            if days <= most:
                return t(f"history.{name}", self.lang)
        month = t(f"history.month_{then.month}", self.lang)
        if then.year == self.now.year:
            return month
        return t("history.month_of_year", self.lang, month=month, year=then.year)

    def title(self, one: Entry) -> str:
        """A conversation's title in words."""
        if one.title:
            return one.title
        then = datetime.fromtimestamp(one.updated, self.now.tzinfo)
        day = t("history.day", self.lang, day=then.day, month=t(f"history.month_{then.month}", self.lang))
        return t("history.image", self.lang, date=day)

    def _entry(self, one: Entry) -> str:
        id, title, growing = html.escape(one.id), self.title(one), one.id in self.growing
        place = f"?c={id}" if one.kind == "text" else f"?tab=images&amp;i={id}"
        notes = [self._t("is_image")] if one.kind == "vision" else []
        notes += [self._t("is_growing")] if growing else []
        spoken = f'<span class="spoken">, {", ".join(notes)}</span>' if notes else ""
        found = f'<span class="found">{self._marked(excerpt(one.found, self.words))}</span>' if one.found else ""
        actions = "".join(
            self._button(name, id, self._t(f"do_{name}", title=title), self._t(name))
            for name in ("unpin" if one.pinned else "pin", "rename", "delete")
        )
        return (
            f'<li data-id="{id}" data-kind="{one.kind}" data-title="{html.escape(title)}">'
            f'<a class="open {one.kind}{" growing" if growing else ""}" href="{place}" data-key="open {id}"'
            f' title="{html.escape(title)}"><span class="title">{self._marked(title)}</span>{spoken}{found}</a>'
            f'<span class="acts">{actions}{self._button("unfold", id, self._t("do_unfold", title=title))}</span></li>'
        )

    def _gone(self, one: Entry) -> str:
        said = self._t("deleted", title=self.title(one))
        undo = (
            f'<button data-do="restore" data-key="restore" data-id="{html.escape(one.id)}">{self._t("undo")}</button>'
        )
        return f'<div class="gone" role="status"><span>{said}</span>{undo}</div>'

    def _button(self, name: str, id: str, spoken: str, tip: str = "") -> str:
        does = f'class="{name}" data-do="{name}" data-key="{name} {id}"'
        return f'<button {does} aria-label="{spoken}" title="{tip}"></button>'

    def _marked(self, text: str) -> str:
        return "".join(
            f"<mark>{html.escape(part)}</mark>" if is_hit else html.escape(part)
            for is_hit, part in marked(text, self.words)
        )

    def _t(self, name: str, **facts: object) -> str:
        return html.escape(t(f"history.{name}", self.lang, **facts))


def zone_of(request: gr.Request) -> tzinfo | None:
    """The reader's time zone, as page.js has found it; this machine's if there is none such."""
    try:
        return ZoneInfo(unquote(request.cookies.get(ZONE_COOKIE, "")))
    except (KeyError, ValueError, OSError):
        return datetime.now().astimezone().tzinfo


def build(desk: Desk) -> Side:
    """Draws the sidebar, before the tabs."""
    with gr.Sidebar(open=False, width=280, label=label("history.toggle"), elem_id="history") as drawer:
        with gr.Row(elem_id="history-head"):
            search = gr.Textbox(
                label=label("history.search"), placeholder=label("history.search_hint"), show_label=False,
                container=False, elem_id="history-search", scale=1, min_width=80,
            )  # fmt: skip
            new = gr.Button(label("history.new"), size="sm", scale=0, min_width=36, elem_id="history-new")
        list = gr.HTML(
            elem_id="history-list", html_template="", apply_default_css=False,
            js_on_load=SCRIPT.read_text(encoding="utf-8"),
        )  # fmt: skip
        with gr.Accordion(label("export.title"), open=False, elem_id="transfer-all"):
            transfer_ui.build(desk)
    return Side(drawer, new, search, list, gr.State(PAGE))


def wire(desk: Desk, side: Side, demo: gr.Blocks, tabs: gr.Tabs) -> None:
    """The list is drawn anew when an answer begins or ends, and now and then."""
    events, view = SidebarEvents(desk), [side.search, side.limit]
    latest: dict[str, Any] = QUIET | {"trigger_mode": "always_last"}
    demo.load(None, None, side.drawer, js=REMEMBERED, **QUIET)
    side.drawer.expand(None, None, None, js=REMEMBER % "open", **QUIET)
    side.drawer.collapse(None, None, None, js=REMEMBER % "closed", **QUIET)
    side.new.click(None, None, None, js=NEW, **QUIET)
    for kind, tab in (("text", "chat"), ("vision", "images")):
        side.opened(kind)(None, None, tabs, js=TO_TAB % tab, **QUIET)  # type: ignore[arg-type]
    side.list.changed(events.refresh, view, side.list, **latest)
    demo.load(events.refresh, view, side.list, **latest)
    gr.Timer(TICK).tick(events.refresh, view, side.list, **latest)
    side.search.input(events.searched, side.search, [side.list, side.limit], **latest)
    side.list.act(events.act, view, side.list, **QUIET | {"trigger_mode": "multiple"})
    side.list.more(events.more, view, [side.list, side.limit], **QUIET)
