"""What stands in the page before Gradio's own script, and what makes the page an app of the desktop.

Gradio puts a head of one's own into a page that is already there: too late for colours that must not flash. So the
page is completed on its way out. Its manifest and icon are ours too: Gradio's name neither colours nor a short name.
"""

from __future__ import annotations

import html
import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.schema import Lang
from interface.desk import LANG_COOKIE, ZONE_COOKIE
from interface.i18n import LANGS, lang_of, t
from interface.theme import PAPERS

HERE = Path(__file__).parent
ICON = HERE / "icons" / "seal-512.png"
ICONS = (("seal.svg", "any", "any"), ("seal-192.png", "192x192", "any"), ("seal-512.png", "512x512", "any"),
         ("seal-maskable.png", "512x512", "maskable"))  # fmt: skip
THEME_KEY = "shusheng_theme"
MANIFEST = "application/manifest+json"

VIEWPORT = "width=device-width, initial-scale=1, shrink-to-fit=no"
BASE = '<base href="./" />'
FIRST = '<meta charset="utf-8" />'
FITTING = "width=device-width, initial-scale=1, viewport-fit=cover, interactive-widget=resizes-content"


def middleware(lang: Lang) -> Middleware:
    """To stand within the guards."""
    return Middleware(Opening, lang=lang)


class Opening:
    """Completes the opening page, and leaves every other answer as it is."""

    def __init__(self, app: ASGIApp, lang: Lang) -> None:
        self.app, self.addition = app, addition(lang)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opening = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        prefix = scope.get("root_path", "")
        await self.app(scope, receive, _Completed(send, self.addition, prefix) if opening else send)


class _Completed:
    """A `send` that holds the page back until it is whole."""

    def __init__(self, send: Send, addition: str, prefix: str) -> None:
        self.send, self.addition, self.prefix = send, addition, prefix
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        headers = MutableHeaders(raw=self.start["headers"])
        if headers.get("content-type", "").startswith("text/html"):
            self.body = complete(self.body.decode(), self.addition, self.prefix).encode()
            headers["content-length"] = str(len(self.body))
        self.start["headers"] = headers.raw
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": self.body})


def complete(page: str, addition: str, prefix: str = "") -> str:
    """Gradio's page with our beginning."""
    page = page.replace(VIEWPORT, FITTING, 1)
    if prefix.startswith("/"):
        # Through a proxy that serves it without the slash at the end, what is relative would go past the prefix.
        page = page.replace(BASE, f'<base href="{html.escape(prefix)}/" />', 1)
    # With the cookie that says the language.
    page = page.replace('href="/manifest.json"', 'href="manifest.json" crossorigin="use-credentials"', 1)
    page = page.replace(FIRST, FIRST + comeback(), 1)
    return page.replace("</head>", addition + "</head>", 1)


@cache
def comeback() -> str:
    """The script that hears of what the page loads and does not get."""
    said = {lang: {"lost": t("chat.connection_lost", lang), "missing": t("chat.part_missing", lang)} for lang in LANGS}
    return script("comeback", said)


def script(name: str, known: dict[str, Any]) -> str:
    """The script of that name, with what it has to know filled in."""
    source = (HERE / f"{name}.js").read_text(encoding="utf-8")
    return f"<script>{source.replace(name.upper(), json.dumps(known))}</script>"


def addition(lang: Lang) -> str:
    """Style and script."""
    known = {
        "fixed": lang, "cookie": LANG_COOKIE, "zoneCookie": ZONE_COOKIE, "themeKey": THEME_KEY,
        "localeModule": locale_module(), "papers": PAPERS,
    }  # fmt: skip
    style = (HERE / "opening.css").read_text(encoding="utf-8")
    return (
        f'<meta name="theme-color" content="{PAPERS[0]}" />'
        '<link rel="icon" type="image/svg+xml" href="icons/seal.svg" />'
        '<link rel="apple-touch-icon" href="icons/seal-192.png" />'
        f"<style>{style}</style>{script('opening', known)}"
    )


def locale_module() -> str:
    """The address of the module of Gradio's page that can change the language of its labels.

    Raises LookupError if this version of Gradio has none.
    """
    assets = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    for one in sorted(assets.glob("core-*.js")):
        if "as changeLocale" in one.read_text(encoding="utf-8"):
            return f"assets/{one.name}"
    raise LookupError("changeLocale")


def routes(lang: Lang) -> list[Route]:
    """The manifest and the icons."""
    return [
        Route("/manifest.json", lambda request: JSONResponse(manifest(request, lang), media_type=MANIFEST)),
        Route("/icons/{name}", icon),
    ]


def manifest(request: Request, fixed: Lang) -> dict[str, Any]:
    """What a browser installs, in the reader's language."""
    asked = request.cookies.get(LANG_COOKIE) or request.headers.get("accept-language")
    lang = lang_of(asked if fixed == "auto" else fixed)
    return {
        "id": "./",
        "name": t("app.name", lang),
        "short_name": t("app.name", lang),
        "description": t("app.description", lang),
        "lang": "zh-CN" if lang == "zh" else "en",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "theme_color": PAPERS[0],
        "background_color": PAPERS[0],
        "icons": [
            {
                "src": f"icons/{name}", "sizes": sizes, "purpose": purpose,
                "type": "image/svg+xml" if name.endswith(".svg") else "image/png",
            }
            for name, sizes, purpose in ICONS
        ],
    }  # fmt: skip


def icon(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in {one for one, *_ in ICONS}:
        return Response(status_code=404)
    return FileResponse(HERE / "icons" / name, headers={"cache-control": "max-age=86400"})
