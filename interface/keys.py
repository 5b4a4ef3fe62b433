"""The keyboard's shortcuts, as the dialog lists them; keyboard.js does what they say."""

from __future__ import annotations

from interface.i18n import Lang, t

SHORTCUTS = (
    ("Enter", "send"), ("Shift+Enter", "newline"), ("Esc", "stop"), ("Ctrl+Shift+O", "new"), ("Ctrl+K", "search"),
    ("↑", "edit"), ("Ctrl+/", "list"),
)  # fmt: skip


def shortcuts_html(lang: Lang) -> str:
    """What the dialog holds."""
    rows = "".join(
        "<div><dt>" + "<span>+</span>".join(f"<kbd>{key}</kbd>" for key in keys.split("+")) + "</dt>"
        f"<dd>{t(f'keys.{name}', lang)}</dd></div>"
        for keys, name in SHORTCUTS
    )
    return (
        f'<h2 id="shortcuts-title">{t("preferences.shortcuts", lang)}</h2><dl>{rows}</dl>'
        f'<button type="button">{t("keys.close", lang)}</button>'
    )


def words(lang: Lang) -> dict[str, str]:
    """What the page's scripts say by themselves."""
    return {
        "name": t("app.name", lang), "skip": t("keys.skip", lang), "shortcuts": shortcuts_html(lang),
    }  # fmt: skip
