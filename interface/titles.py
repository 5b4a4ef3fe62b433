"""A conversation's title, made from its first question: what it says, without the marks that say how it looks."""

from __future__ import annotations

import re
import unicodedata

LENGTH = 60
"""Characters at most; a page shows as much of it as there is room for."""

_FENCED = re.compile(r"^[ \t]*(```+|~~~+).*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_LINE_START = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+][ \t]+|\d{1,3}[.)][ \t]+)+", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:[-=*_|:][ \t]*){3,}$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\[\]\n]*)\]\([^()\n]*\)")
_EMPHASIS = re.compile(r"(\*{1,3}|~~|`+|(?<!\w)_{1,2})(?=\S)([^\n]+?)(?<=\S)\1(?!\w)")


def tidied(text: str, length: int = LENGTH) -> str:
    """One line of at most `length` characters; "" only for a text without any."""
    said = _FENCED.sub("\n", text)
    for mark, rest in ((_RULE, ""), (_LINE_START, ""), (_LINK, r"\1"), (_EMPHASIS, r"\2")):
        said = mark.sub(rest, said)
    return _cut(_line(said) or _line(text), length)


def _line(text: str) -> str:
    """Without control characters, and with one space where there was any."""
    kept = "".join(char for char in text if char.isspace() or unicodedata.category(char) not in ("Cc", "Cs"))
    return " ".join(kept.split())


def _cut(line: str, length: int) -> str:
    if len(line) <= length:
        return line
    end = length - 1
    while end > length // 2 and _joined(line[end - 1], line[end]):
        end -= 1
    # A word is kept whole where words have spaces; one that fills half the line is not waited for.
    space = line.rfind(" ", length // 2, end + 1)
    if space > 0 and line[end].isascii() and line[end - 1].isascii() and line[end] != " ":
        end = space
    return line[:end].rstrip(" ,;:.，。；：、") + "…"


def _joined(before: str, after: str) -> bool:
    """Whether two characters are drawn as one: accents, and emoji of several parts."""
    return (
        unicodedata.combining(after) > 0
        or unicodedata.category(after) in ("Mn", "Me")
        or before == "\u200d"
        or after == "\u200d"
        or 0x1F3FB <= ord(after) <= 0x1F3FF
    )
