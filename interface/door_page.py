"""The login page: one form in the look of the app, that works without a script and without anything from elsewhere."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from pathlib import Path

from interface.i18n import Lang, t
from interface.opening import THEME_KEY
from interface.theme import INK, SANS, SEAL

LOGIN_PAGE = "login"
LOGOUT = "logout"
STYLE = Path(__file__).with_name("door.css")

# What the reader has chosen for the app goes before what the system says; without a script, the system's is right.
SCRIPT = """
const chosen = (() => { try { return localStorage.getItem(KEY); } catch { return null; } })();
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
"""


def login_page(lang: Lang, problem: str = "", name: str = "") -> str:
    """The page, with what went wrong and the name that was tried."""
    first, second = ("", " autofocus") if name else (" autofocus", "")
    alert = f'<p id="problem" role="alert">{escape(problem)}</p>' if problem else ""
    described = ' aria-describedby="problem"' if problem else ""
    return f"""<!doctype html>
<html lang="{"zh-CN" if lang == "zh" else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<meta name="robots" content="noindex">
<title>{escape(t("login.title", lang))} · {escape(t("app.name", lang))}</title>
<link rel="icon" type="image/svg+xml" href="icons/seal.svg">
<link rel="manifest" href="manifest.json" crossorigin="use-credentials">
<style>{_style()}</style>
<script>{SCRIPT.replace("KEY", json.dumps(THEME_KEY))}</script>
</head>
<body>
<main>
<h1><span class="seal" aria-hidden="true">书</span>{escape(t("app.name", lang))}</h1>
<form method="post" aria-label="{escape(t("login.title", lang))}">
{alert}
<label for="name">{escape(t("login.name", lang))}</label>
<input id="name" name="name" value="{escape(name)}" autocomplete="username" autocapitalize="none" spellcheck="false"
 maxlength="64" required{first}{described}>
<label for="password">{escape(t("login.password", lang))}</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="256"
 required{second}{described}>
<button>{escape(t("login.submit", lang))}</button>
</form>
<p class="hint">{escape(t("login.hint", lang))}</p>
</main>
</body>
</html>
"""


@cache
def _style() -> str:
    """The page's style, with the colours and fonts of the app's theme."""
    colours = {
        "paper": INK.c50, "ink": INK.c700, "quiet": INK.c600, "line": INK.c300, "field": "#fff",
        "night": INK.c950, "night-ink": INK.c100, "night-quiet": INK.c400, "night-line": INK.c700,
        "night-field": INK.c900, "seal": SEAL.c500, "press": SEAL.c600, "word": SEAL.c600, "night-word": SEAL.c300,
    }  # fmt: skip
    fonts = ", ".join(font if "-" in font or " " not in font else f'"{font}"' for font in SANS)
    root = "".join(f"--{name}: {value}; " for name, value in colours.items())
    return f":root {{ {root}--sans: {fonts}; }}\n{STYLE.read_text(encoding='utf-8')}"
