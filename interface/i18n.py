"""Sentences in the reader's language, from configs/locales. Knows no error and no page; a test keeps both complete.

Needs nothing but Python itself: interface/needs.py speaks where no package is installed.
"""

from __future__ import annotations

import string
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

LOCALES = Path(__file__).resolve().parent.parent / "configs" / "locales"
Lang = Literal["en", "zh"]
LANGS: tuple[Lang, ...] = ("en", "zh")


def t(key: str, lang: Lang, **facts: Any) -> str:
    """The sentence `key` with its facts filled in. A key that is missing is a KeyError: tests find it, not people."""
    return _Formatter(lang).format(texts(lang)[key], **facts)


@cache
def texts(lang: Lang) -> dict[str, str]:
    """Every sentence of a language by its dotted key."""
    tree = tomllib.loads((LOCALES / f"{lang}.toml").read_text(encoding="utf-8"))
    return dict(_flat(tree, ""))


def lang_of(tag: str | None) -> Lang:
    """The nearest of our languages to a tag of the browser's or the system's: "zh-TW", "zh_CN.UTF-8", "de"."""
    return "zh" if (tag or "").lower().startswith("zh") else "en"


def bytes_text(size: float) -> str:
    """1023 B, 1.5 KiB, 4.9 GiB: binary units, as drivers and this app's guard count."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def seconds_text(seconds: float, lang: Lang) -> str:
    if seconds < 90:
        return texts(lang)["time.seconds"].format(n=seconds)
    if seconds < 5400:
        return texts(lang)["time.minutes"].format(n=seconds / 60)
    return texts(lang)["time.hours"].format(n=seconds / 3600)


class _Formatter(string.Formatter):
    """str.format with three more formats: bytes, count (12,345) and seconds."""

    def __init__(self, lang: Lang) -> None:
        self._lang = lang

    def format_field(self, value: Any, format_spec: str) -> str:
        match format_spec:
            case "bytes":
                return bytes_text(value)
            case "count":
                return f"{value:,}"
            case "seconds":
                return seconds_text(value, self._lang)
            case _:
                return str(super().format_field(value, format_spec))


def _flat(tree: dict[str, Any], prefix: str) -> Any:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
